"""Weights in memory: dtype, quantization, devices, values that are not finite."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from lenscore.models.flag_types import Quantization
from storage_layouts.errors import InputError

_WIDER = {torch.float16: "; try --dtype bfloat16 or float32", torch.bfloat16: "; try --dtype float32"}


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it. Without them products in bfloat16 take ten times those in float32."""
    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in native)


def quantization_config(quantization: Quantization, device: str) -> dict[str, Any]:
    """Arguments of `from_pretrained`. Raises InputError if bitsandbytes or a CUDA GPU is missing."""
    if quantization == "none":
        return {}
    flag = f"--quantization {quantization}"
    if not is_bitsandbytes_available():
        raise InputError(f"{flag}: needs the library bitsandbytes, which is not installed; pip install bitsandbytes")
    if not torch.cuda.is_available() or device == "cpu":
        raise InputError(f"{flag}: needs a CUDA GPU, found the device {device!r}; leave the flag out")
    if quantization == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:  # products in bfloat16: the library's default of float32 is several times slower
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": config}


def fits_on_gpus(model: Any) -> bool:
    """False for a spread model with parts in host memory or on disk, which each forward pass would load again."""
    devices = {str(device) for device in getattr(model, "hf_device_map", {}).values()}
    return not (torch.cuda.is_available() and len(devices) > 1 and devices & {"cpu", "disk"})


def require_finite(model: Any, *states: torch.Tensor) -> None:
    """Raises InputError with the cause if a hidden state of a model is not finite."""
    if not all(state.isfinite().all() for state in states):
        raise InputError(f"--model {model.name_or_path}: hidden states are not finite: {why_not_finite(model)}")


def why_not_finite(model: Any) -> str:
    """The reason for hidden states that are not finite: the first weight that is not, or an overflow of the dtype."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            return f"its weight {name} holds NaN or infinity, so the checkpoint is damaged or its training failed"
    return f"all its weights are finite, but its numbers are not in {model.dtype}{_WIDER.get(model.dtype, '')}"
