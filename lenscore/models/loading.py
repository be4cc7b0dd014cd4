"""Models, configurations, tokenizers and processors, loaded as the checkpoint says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)
from transformers.utils import is_torchvision_available

import lenscore.models.connector_model  # noqa: F401 - makes trained connectors known to transformers
from lenscore.models.decoder import Decoder, decoder_of
from lenscore.models.processors import load_processor
from lenscore.models.source import downloaded_commit, require_source, why_not_loaded
from lenscore.models.weights import Quantization, load_weights, refuse_remote_code
from storage_layouts.errors import InputError, first_line


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
    config = load_config(model_name, trust_remote_code, revision)
    auto_class = text_model_class(model_name, config, trust_remote_code)
    model = load_weights(auto_class, model_name, device, dtype, trust_remote_code, quantization, revision=revision)
    tokenizer = load_tokenizer(model_name, trust_remote_code, revision)
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
    config = load_config(name, trust_remote_code, revision)
    require_vision(name, config, trust_remote_code)
    processor = _load_processor(name, trust_remote_code, revision)
    kind = AutoModelForImageTextToText
    model = load_weights(kind, name, device, dtype, trust_remote_code, quantization, revision=revision)
    return Vlm(str(name), model, processor, processor.tokenizer, decoder_of(model))


def load_config(
    name: str | os.PathLike[str],
    trust_remote_code: bool = False,
    revision: str | None = None,
    flag: str = "--model",
) -> Any:
    """The model's configuration, without its weights; its `_commit_hash` is that of a Hub model, None of a folder.

    `flag` is what named the model. Raises InputError if there is no such model, or no such `revision` of it.
    """
    require_source(name, revision, flag)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, revision=revision or None)
    except (OSError, ValueError) as error:
        refuse_remote_code(name, error, flag)
        raise InputError(f"{flag} {name}: {why_not_loaded(name, revision, error)}") from None
    config._commit_hash = downloaded_commit(name, revision)  # transformers 5.23 does not say it any more
    return config


def load_tokenizer(
    name: str | os.PathLike[str],
    trust_remote_code: bool = False,
    revision: str | None = None,
    flag: str = "--model",
) -> Any:
    """The model's fast tokenizer (character offsets need a fast one). Raises InputError if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, revision=revision or None)
    except (OSError, ValueError, ImportError, KeyError) as error:
        refuse_remote_code(name, error, flag)
        raise InputError(f"{flag} {name}: its tokenizer cannot be loaded: {first_line(error)}") from None
    if not tokenizer.is_fast:
        raise InputError(
            f"{flag} {name}: only a slow tokenizer was found, which knows no character offsets; "
            "expected tokenizer.json beside the model"
        )
    return tokenizer


def require_vision(name: object, config: Any, trust_remote_code: bool = False) -> None:
    """Raises InputError unless the model takes images together with text."""
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not trust_remote_code:
        raise InputError(
            f"--model {name}: a {config.model_type!r} model takes no images with text; "
            "expected a vision-language model (transformers' image-text-to-text)"
        )


def text_model_class(name: object, config: Any, trust_remote_code: bool = False) -> Any:
    """The transformers class whose model can read text. Raises InputError if there is none."""
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or (trust_remote_code and hasattr(config, "auto_map")):
        return AutoModelForCausalLM
    raise InputError(
        f"--model {name}: a {config.model_type!r} model is no language model; "
        "expected a causal LM or a vision-language model"
    )


def absolute_model(name: str | os.PathLike[str]) -> str:
    """A model folder as an absolute path; a Hub name as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def _load_processor(name: str | os.PathLike[str], trust_remote_code: bool, revision: str | None) -> Any:
    try:
        processor = load_processor(name, trust_remote_code, revision)
    except (OSError, ValueError, ImportError, KeyError) as error:
        refuse_remote_code(name, error)
        hint = "" if is_torchvision_available() else " (torchvision is not installed, which some processors need)"
        raise InputError(f"--model {name}: its processor cannot be loaded: {first_line(error)[:200]}{hint}") from None
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise InputError(
            f"--model {name}: found a {type(processor).__name__} alone; expected a processor for images and text "
            "(processor_config.json or preprocessor_config.json, and the tokenizer's files)"
        )
    return processor
