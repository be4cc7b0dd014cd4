"""Processors of vision-language models, with or without torchvision.

transformers 5 requires torchvision in two places where images do not need it: processors that also accept videos
need a video processor, and Pixtral's module imports the torchvision variant of its image processor for one function
that the Pillow variant has too.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import transformers
from transformers import AutoConfig, AutoProcessor, processing_utils
from transformers.models import pixtral
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.pixtral import image_processing_pil_pixtral
from transformers.processing_utils import MODALITY_TO_AUTOPROCESSOR_MAPPING
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

if not is_torchvision_available():
    # Processors check their arguments against this name, in the copy of transformers that processing_utils makes.
    processing_utils.transformers_module.VideoProcessorMixin = VideoProcessorMixin
    sys.modules.setdefault("transformers.models.pixtral.image_processing_pixtral", image_processing_pil_pixtral)
    from transformers.models.pixtral.processing_pixtral import PixtralProcessor

    transformers.PixtralProcessor = pixtral.PixtralProcessor = PixtralProcessor


def load_processor(name: str | os.PathLike[str], trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """The processor of a checkpoint (a folder or a Hub name) from AutoProcessor.

    Without torchvision, a processor that has a video processor is loaded without it. Raises what AutoProcessor raises:
    OSError, ValueError, ImportError.
    """
    try:
        return AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code, revision=revision)
    except ImportError:
        if is_torchvision_available():
            raise
        kind = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(name, revision=revision)), None)
        if kind is None or "video_processor" not in kind.get_attributes():
            raise
    settings, _ = kind.get_processor_dict(name, revision=revision)
    parts = [
        no_video_processor()
        if part == "video_processor"
        else MODALITY_TO_AUTOPROCESSOR_MAPPING[part].from_pretrained(name, revision=revision)
        for part in kind.get_attributes()
    ]
    return kind.from_args_and_dict(parts, settings)


def no_video_processor() -> VideoProcessorMixin:
    """A substitute for a video processor, which takes no videos and does not need torchvision."""
    return VideoProcessorMixin(num_frames=None, fps=None)  # SmolVLM reads these two even without a video
