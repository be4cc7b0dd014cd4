"""Language models and vision-language models, loaded as their checkpoint says and taken apart generically.

Nothing here knows a model family by name: the decoder, its blocks, its final norm, the embeddings and the head
are found through the interfaces that every Hugging Face model has.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)
from transformers.utils import is_torchvision_available

import lenscore.connector_model  # noqa: F401 - makes trained connectors known to transformers
from lenscore.decoder import (
    DEFAULT_MAX_TOKENS,
    Decoder,
    decoder_of,
    most_tokens,
    number_of_layers,
    text_config_of,
)
from lenscore.hidden_states import get_hidden_states
from lenscore.model_source import downloaded_commit, require_source, why_not_loaded
from lenscore.processors import load_processor
from lenscore.weights import Quantization, load_weights, refuse_remote_code
from storage_layouts.errors import InputError, first_line

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "MODEL_DEFAULTS",
    "SUPPORTED_MODELS",
    "Decoder",
    "Quantization",
    "Vlm",
    "absolute_model",
    "auto_layers",
    "decoder_of",
    "default_layers",
    "get_hidden_states",
    "load_config",
    "load_model",
    "load_tokenizer",
    "load_vlm",
    "most_tokens",
    "number_of_layers",
    "paper_layers",
    "require_vision",
    "resolve_layers",
    "text_config_of",
    "text_model_class",
    "text_weights_fingerprint",
    "tokenizer_fingerprint",
    "weights_fingerprint",
]

SUPPORTED_MODELS: dict[str, dict[str, Any]] = {
    name: {
        "num_hidden_layers": depth,
        "hidden_size": width,
        "default_layers": [1, 2, 4, 8, 16, 24, depth - 2, depth - 1],
    }
    for name, depth, width in (
        ("allenai/OLMo-7B-1024-preview", 32, 4096),
        ("meta-llama/Meta-Llama-3-8B", 32, 4096),
        ("Qwen/Qwen2-7B", 28, 3584),
    )
}
"""Depth, width and contextual layers of the LLMs of the LatentLens paper. An entry may be added or changed, and then
counts for `build_index`; any other model gets `auto_layers`."""

MODEL_DEFAULTS = SUPPORTED_MODELS
"""The same table: latentlens 0.1.0 on PyPI calls it so, its repository `SUPPORTED_MODELS`."""

WIDE_PAPER_LAYERS: dict[int, tuple[int, ...]] = {
    60: (1, 2, 4, 8, 16, 30, 45, 59),
    64: (1, 2, 4, 8, 16, 32, 48, 56, 62, 63),
    80: (1, 2, 4, 8, 16, 40, 60, 72, 78, 79),
}
"""The paper's layers of its deep models, by number of blocks: LLaVA-NeXT-34B, Qwen2.5-VL-32B, Molmo-72B."""

DEEP = 48
"""Models with more blocks take layers N/2 and 3N/4 in place of 24, as the paper's deep models do."""


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


def paper_layers(depth: int, visual: bool) -> tuple[int, ...]:
    """The layers of the LatentLens paper (section 4) for a model of `depth` blocks.

    Contextual: 1, 2, 4, 8, 16, 24, N-2, N-1, and the paper's own choices for its models of 60, 64 and 80 blocks;
    other models of more than `DEEP` blocks, which the paper does not have, take N/2 and 3N/4 in place of 24.
    Visual: layer 0 too. What the model does not have is left out.
    """
    middle = (24,) if depth <= DEEP else (depth // 2, 3 * depth // 4)
    layers = WIDE_PAPER_LAYERS.get(depth, (1, 2, 4, 8, 16, *middle, depth - 2, depth - 1))
    return tuple(sorted({layer for layer in (*layers, *([0] if visual else [])) if 0 <= layer < depth}))


def auto_layers(num_hidden_layers: int) -> list[int]:
    """The contextual layers that the latentlens library takes for a model of this depth: `paper_layers` up to `DEEP`.

    It has one rule for every depth: 1, 2, 4, 8, 16, 24, N-2, N-1, as far as the model has them.
    """
    depth = num_hidden_layers
    return sorted({layer for layer in (1, 2, 4, 8, 16, 24, depth - 2, depth - 1) if 0 <= layer < depth})


def default_layers(model_name: str) -> list[int]:
    """The contextual layers that `SUPPORTED_MODELS` has for one of its models.

    Raises InputError if the entry holds no list of layers under "default_layers".
    """
    entry = SUPPORTED_MODELS[model_name]
    layers = entry.get("default_layers") if isinstance(entry, dict) else None
    if not isinstance(layers, (list, tuple)) or not layers or not all(type(layer) is int for layer in layers):
        raise InputError(
            f"SUPPORTED_MODELS[{model_name!r}]: found {entry!r:.100}, "
            "expected a dict in which default_layers is a list of layer numbers"
        )
    return list(layers)


def resolve_layers(asked: str | Sequence[int], depth: int, visual: bool, flag: str = "--layers") -> tuple[int, ...]:
    """Turn "paper", "all", "0,2,-1" or a sequence of integers into sorted, distinct layers of 0..depth-1.

    Negative layers count from the end. Raises InputError, naming the valid range, if a layer is outside it
    (a layer is never clamped).
    """
    if asked == "paper":
        return paper_layers(depth, visual)
    if asked == "all":
        return tuple(range(depth))
    parts = asked.split(",") if isinstance(asked, str) else list(asked)
    layers = set()
    for part in parts:
        try:
            layer = int(part)
        except ValueError:
            raise InputError(f"{flag}: {part!r} is no layer; expected 'paper', 'all' or numbers as in 0,2,-1") from None
        if not -depth <= layer < depth:
            raise InputError(
                f"{flag}: layer {layer} does not exist; the model has {depth} blocks, "
                f"so layers 0 to {depth - 1} (or -{depth} to -1)"
            )
        layers.add(layer % depth)
    if not layers:
        raise InputError(f"{flag}: no layer was asked for; expected 'paper', 'all' or numbers as in 0,2,-1")
    return tuple(sorted(layers))


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 over the vocabulary without added tokens: equal for an LLM and for the VLM made from it."""
    added = tokenizer.get_added_vocab()
    vocabulary = sorted((i, token) for token, i in tokenizer.get_vocab().items() if token not in added)
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


def weights_fingerprint(module: nn.Module, samples: int = 64) -> str:
    """SHA-256 over a fixed sample of every weight: do two modules hold the same ones?

    `samples` evenly spaced values of each parameter are read, rounded to bfloat16, so that a checkpoint and its
    half-precision copy agree.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(module.named_parameters()):
        flat = weight.detach().reshape(-1)
        picked = torch.linspace(0, flat.numel() - 1, samples, dtype=torch.float64).long().to(flat.device)
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(flat[picked].bfloat16().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def text_weights_fingerprint(model: Any) -> str:
    """`weights_fingerprint` of the LLM: equal for an LLM and for the VLM made from it.

    The embeddings are left out, because a VLM made from an LLM adds rows to them.
    """
    return weights_fingerprint(decoder_of(model).layers)


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
