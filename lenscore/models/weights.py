"""Weights on their way from a checkpoint to where they are used: in its own dtype, straight to the device."""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available
from transformers.utils.logging import disable_progress_bar

from storage_layouts.errors import InputError, first_line

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Dtype of the weights; auto is the checkpoint's own."""
Quantization = Literal["none", "8bit", "4bit"]
"""How the linear layers are held in memory: as in the checkpoint, or in 8 or 4 bits by bitsandbytes."""


def load_weights(
    auto_class: Any,
    name: str | os.PathLike[str],
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
    trust_remote_code: bool,
    quantization: Quantization = "none",
    flag: str = "--model",
    revision: str | None = None,
) -> Any:
    """The model of a checkpoint, in eval mode.

    Each tensor is read from the file straight to its place, so that host memory never holds the whole model.
    `device` None takes CUDA where there is one; "spread" divides the blocks among all GPUs that this process sees.
    `dtype` None keeps the checkpoint's own; `flag` is what named the checkpoint, `revision` that of a Hub model.
    Raises InputError if it cannot be loaded or lacks weights (transformers would make them up), if it does not fit, or
    if `quantization` cannot be used here.
    """
    if not sys.stderr.isatty():  # a log on a full disk would end the loading, and the weights be blamed
        disable_progress_bar()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if str(device) == "spread":
        device_map: Any = "balanced" if torch.cuda.is_available() else None
    else:
        device_map = None if str(device) == "cpu" else {"": device}
    settings = {} if quantization == "none" else {"quantization_config": _bitsandbytes(quantization, str(device))}
    try:
        model, report = auto_class.from_pretrained(
            name,
            dtype=dtype or "auto",
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            revision=revision or "main",
            output_loading_info=True,
            **settings,
        )
    except torch.OutOfMemoryError:
        raise InputError(
            f"{flag} {name}: does not fit into the memory of {device}; free it, spread the model over several GPUs "
            "(in Python: device='spread'), or hold it in 8 or 4 bits (--quantization)"
        ) from None
    except Exception as error:  # transformers, safetensors and torch raise nearly anything on broken checkpoints
        refuse_remote_code(name, error, flag)
        safer = "; expected safetensors, or a pickle of tensors" if isinstance(error, pickle.UnpicklingError) else ""
        raise InputError(f"{flag} {name}: its weights cannot be loaded: {first_line(error)}{safer}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{flag} {name}: the checkpoint lacks {len(missing)} of the model's weights, e.g. {missing[0]}; "
            "expected all of them (is config.json that of this checkpoint?)"
        )
    _require_on_gpus(name, model, flag)
    return model.eval()


def refuse_remote_code(name: object, error: BaseException, flag: str = "--model") -> None:
    """InputError if what transformers complains of is a model that wants to run its own Python code."""
    if "trust_remote_code" in str(error):
        raise InputError(
            f"{flag} {name}: refused, because it comes with Python code of its own that would run on this machine; "
            "if you trust it, add --trust-remote-code (in Python: trust_remote_code=True)"
        ) from None


def _bitsandbytes(quantization: Quantization, device: str) -> BitsAndBytesConfig:
    flag = f"--quantization {quantization}"
    if not is_bitsandbytes_available():
        raise InputError(f"{flag}: needs the library bitsandbytes, which is not here; pip install bitsandbytes")
    if not torch.cuda.is_available() or device == "cpu":
        raise InputError(f"{flag}: needs a CUDA GPU, found the device {device!r}; leave the flag out")
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    # Products in bfloat16: the library's default of float32 is several times slower.
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _require_on_gpus(name: object, model: Any, flag: str) -> None:
    """A model that was spread must be on GPUs entirely: the rest would be fetched from host or disk at each pass."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if torch.cuda.is_available() and len(places) > 1 and places & {"cpu", "disk"}:
        raise InputError(
            f"{flag} {name}: does not fit on the {torch.cuda.device_count()} GPUs that this process sees; "
            "give it more, or hold it in 8 or 4 bits (--quantization)"
        )
