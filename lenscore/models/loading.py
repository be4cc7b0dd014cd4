"""Loading of models with their tokenizer or processor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import AutoModelForImageTextToText

from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import Decoder, decoder_of
from lenscore.models.flag_types import Quantization
from lenscore.models.residual_stream import require_whole_states
from lenscore.models.text_only import ordinary_tokens

PROBE_TOKENS = 4
"""Length of the sentence that a loaded model is checked with."""


@dataclass(frozen=True)
class LanguageModel:
    """A model that reads text, with its tokenizer, ready for inference: a causal LM, or the LLM of a VLM."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings, where inputs have to be."""
        return self.model.get_input_embeddings().weight.device

    @property
    def devices(self) -> list[torch.device]:
        """Those of all its weights, `device` first: several if it is spread over GPUs."""
        found = dict.fromkeys([self.device, *(weight.device for weight in self.model.parameters())])
        return [device for device in found if device.type == self.device.type]

    @property
    def decoder(self) -> Decoder:
        """Its blocks and final norm."""
        return decoder_of(self.model)


@dataclass(frozen=True)
class Vlm(LanguageModel):
    """A vision-language model with its processor, ready for inference."""

    processor: Any


_Loaded = TypeVar("_Loaded", bound=LanguageModel)


def loadable(
    model: _Loaded | str | os.PathLike[str],
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
    quantization: Quantization,
    trust_remote_code: bool,
    revision: str | None,
) -> _Loaded | Checkpoint:
    """A loaded model itself, or the checkpoint of a name with these options of `load_model`.

    Raises TypeError if options are given together with a loaded model.
    """
    if not isinstance(model, LanguageModel):
        return Checkpoint(model, revision, trust_remote_code, dtype, quantization)
    if (device, dtype, quantization, trust_remote_code, revision) != (None, None, "none", False, None):
        raise TypeError(
            "device, dtype, quantization, trust_remote_code and revision need the name of a model, not a loaded model"
        )
    return model


def load_model(
    model_name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = torch.float32,
    trust_remote_code: bool = False,
    quantization: Quantization = "none",
    revision: str | None = None,
) -> tuple[Any, Any]:
    """Load a model that reads text: a causal LM, or a VLM (its LLM reads the text).

    Args:
        model_name: a folder or a Hub name.
        device: None is CUDA if available; "spread" divides the blocks among all GPUs.
        dtype: of the weights. None keeps the checkpoint's dtype, as the batch jobs do, which takes half the memory;
            the default is that of the latentlens library.
        trust_remote_code: run Python code that comes with the model.
        quantization: "8bit" and "4bit" need bitsandbytes and a GPU.
        revision: branch, tag or commit of a Hub model.

    Returns:
        The model in eval mode, and its tokenizer, which has a padding token.

    Raises:
        InputError: if there is no such model, if it is not a language model, if weights are missing or do not fit, if
            it needs its own code without `trust_remote_code`, or if its states are not finite or not the whole residual
            stream (`require_whole_states`).

    """
    return text_model_of(Checkpoint(model_name, revision, trust_remote_code, dtype, quantization), device)


def text_model_of(checkpoint: Checkpoint, device: str | torch.device | None = None) -> tuple[Any, Any]:
    """See `load_model`."""
    model, tokenizer = checkpoint.model(checkpoint.text_class, device), checkpoint.tokenizer
    require_whole_states(model, ordinary_tokens(tokenizer, PROBE_TOKENS))
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

    Arguments and errors are those of `load_model`; `dtype` None keeps the checkpoint's dtype. Raises InputError also if
    the model takes no images.
    """
    return vlm_of(Checkpoint(name, revision, trust_remote_code, dtype, quantization), device)


def vlm_of(checkpoint: Checkpoint, device: str | torch.device | None = None) -> Vlm:
    """See `load_vlm`."""
    checkpoint.require_vision()
    processor = checkpoint.processor
    model = checkpoint.model(AutoModelForImageTextToText, device)
    require_whole_states(model, ordinary_tokens(processor.tokenizer, PROBE_TOKENS))
    return Vlm(str(checkpoint.name), model, processor.tokenizer, processor)
