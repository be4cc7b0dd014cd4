"""Models with what reads their inputs, loaded as the checkpoint says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import Decoder, decoder_of
from lenscore.models.weights import Quantization


@dataclass(frozen=True)
class Vlm:
    """A vision-language model with its processor, ready for inference."""

    name: str
    model: Any
    processor: Any
    tokenizer: Any
    decoder: Decoder

    @property
    def device(self) -> torch.device:
        """Where the input embeddings live, so where the inputs have to go."""
        return self.model.get_input_embeddings().weight.device


def load_model(
    model_name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = torch.float32,
    trust_remote_code: bool = False,
    quantization: Quantization = "none",
    revision: str | None = None,
) -> tuple[Any, Any]:
    """Load a model whose text side can read a corpus: a causal LM, or a VLM (its LLM is what reads).

    `model_name` is a folder or a Hub name. `dtype` None keeps the checkpoint's own dtype, which takes half the
    memory and is what the batch jobs do; the default is that of the latentlens library. `device` None takes CUDA
    where there is one; "spread" divides the blocks among all GPUs. `quantization` "8bit" or "4bit" needs bitsandbytes
    and a GPU. `revision` is a branch, a tag or a commit of a Hub model. Returns the model in eval mode and its
    tokenizer, which can pad. Raises InputError if there is no such model, if it is no language model, if its weights
    are not all there or do not fit, or if it wants to run code of its own without `trust_remote_code`.
    """
    return text_model_of(Checkpoint(model_name, revision, trust_remote_code, dtype, quantization), device)


def text_model_of(checkpoint: Checkpoint, device: str | torch.device | None = None) -> tuple[Any, Any]:
    """See `load_model`."""
    model, tokenizer = checkpoint.model(checkpoint.text_class, device), checkpoint.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def load_vlm(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    quantization: Quantization = "none",
    revision: str | None = None,
) -> Vlm:
    """Load a vision-language model and its processor.

    Arguments and errors as in `load_model`; InputError also if the model takes no images.
    """
    return vlm_of(Checkpoint(name, revision, trust_remote_code, dtype, quantization), device)


def vlm_of(checkpoint: Checkpoint, device: str | torch.device | None = None) -> Vlm:
    """See `load_vlm`."""
    checkpoint.require_vision()
    processor = checkpoint.processor
    model = checkpoint.model(AutoModelForImageTextToText, device)
    return Vlm(str(checkpoint.name), model, processor, processor.tokenizer, decoder_of(model))


def absolute_model(name: str | os.PathLike[str]) -> str:
    """A model folder as an absolute path; a Hub name as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)
