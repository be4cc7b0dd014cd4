"""What the self-test finds on a tiny random model of each family: `python -m tests.verified_families` ships it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import transformers

from lenscore.models.loading import Vlm, load_vlm
from lenscore.self_test.checks import check
from lenscore.self_test.records import SHIPPED
from tests.families import BUILDERS, save_family


def load_tiny(name: str, base: Path) -> Vlm:
    """The tiny model of a family, saved below `base` at the first call."""
    return load_vlm(base / name if (base / name).exists() else save_family(name, base / name), "cpu")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: check(load_tiny(name, Path(folder))) for name in BUILDERS}
    passed = {
        # A model without the logit lens passes this check, but nothing is verified.
        name: [result.check for result in results if result.passed and not result.found.startswith("none:")]
        for name, results in found.items()
    }
    SHIPPED.write_text(
        json.dumps({"transformers": transformers.__version__, "checks": passed}, indent=1) + "\n", encoding="utf-8"
    )
