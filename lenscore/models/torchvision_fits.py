"""A torchvision that does not fit torch; transformers imports it with most of its code, where it is installed."""

from __future__ import annotations

import importlib
from importlib.metadata import version

from transformers.utils import is_torchvision_available

from storage_layouts.errors import InputError, first_line


def require_fitting_torchvision() -> None:
    """Raises InputError if torchvision is installed but cannot be imported."""
    if not is_torchvision_available():
        return
    try:
        importlib.import_module("torchvision")
    except Exception as cause:  # whatever its compiled code raises beside another torch
        raise InputError(
            f"torchvision is installed but cannot be imported ({first_line(cause)}); install the one for torch "
            f"{version('torch')}, or none (only Molmo2 needs it)"
        ) from cause
