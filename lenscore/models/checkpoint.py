"""A checkpoint as somebody named it, in a folder or on the Hub: its parts are opened when asked for, and once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)
from transformers.utils import is_torchvision_available

import lenscore.models.connector_model  # noqa: F401 - makes trained connectors known to transformers
from lenscore.models.processors import load_processor
from lenscore.models.source import downloaded_commit, require_source, why_not_loaded
from lenscore.models.weights import Quantization, load_weights, refuse_remote_code
from storage_layouts.errors import InputError, first_line


@dataclass(frozen=True)
class Checkpoint:
    """Where a model comes from, and how it is held.

    Every part raises InputError if there is no such model, no such revision of it, or not this part; and if the model
    wants to run code of its own without `trust_remote_code`.

    Attributes:
        name: a folder or a Hub name.
        revision: branch, tag or commit of a Hub model; None or "" for its main branch.
        trust_remote_code: run Python code that comes with it.
        dtype: of the weights; None or "auto" keeps the checkpoint's own.
        quantization: "8bit" and "4bit" need bitsandbytes and a GPU.
        flag: what named the model, for messages.

    """

    name: str | os.PathLike[str]
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: torch.dtype | str | None = None
    quantization: Quantization = "none"
    flag: str = "--model"

    @cached_property
    def config(self) -> Any:
        """The configuration, without weights; its `_commit_hash` is that of a Hub model, None of a folder."""
        require_source(self.name, self.revision, self.flag)
        try:
            config = AutoConfig.from_pretrained(self.name, **self._where)
        except (OSError, ValueError) as error:
            refuse_remote_code(self.name, error, self.flag)
            raise InputError(f"{self.flag} {self.name}: {why_not_loaded(self.name, self.revision, error)}") from None
        config._commit_hash = downloaded_commit(self.name, self.revision)  # transformers 5.23 does not say it any more
        return config

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer: character offsets need a fast one."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.name, **self._where)
        except (OSError, ValueError, ImportError, KeyError) as error:
            refuse_remote_code(self.name, error, self.flag)
            raise InputError(f"{self.flag} {self.name}: its tokenizer cannot be loaded: {first_line(error)}") from None
        if not tokenizer.is_fast:
            raise InputError(
                f"{self.flag} {self.name}: only a slow tokenizer was found, which knows no character offsets; "
                "expected tokenizer.json beside the model"
            )
        return tokenizer

    @cached_property
    def processor(self) -> Any:
        """What makes a model's inputs of images and text."""
        try:
            processor = load_processor(self.name, self.trust_remote_code, self.revision)
        except (OSError, ValueError, ImportError, KeyError) as error:
            refuse_remote_code(self.name, error, self.flag)
            hint = "" if is_torchvision_available() else " (torchvision is not installed, which some processors need)"
            raise InputError(
                f"{self.flag} {self.name}: its processor cannot be loaded: {first_line(error)[:200]}{hint}"
            ) from None
        if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
            raise InputError(
                f"{self.flag} {self.name}: found a {type(processor).__name__} alone; expected a processor for images "
                "and text (processor_config.json or preprocessor_config.json, and the tokenizer's files)"
            )
        return processor

    @property
    def text_class(self) -> Any:
        """The transformers class whose model can read text: a causal LM, or a VLM (its LLM is what reads)."""
        if type(self.config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return AutoModelForImageTextToText
        own = self.trust_remote_code and hasattr(self.config, "auto_map")
        if type(self.config) in MODEL_FOR_CAUSAL_LM_MAPPING or own:
            return AutoModelForCausalLM
        raise InputError(
            f"{self.flag} {self.name}: a {self.config.model_type!r} model is no language model; "
            "expected a causal LM or a vision-language model"
        )

    def require_vision(self) -> None:
        """Raises InputError unless the model takes images together with text."""
        if type(self.config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not self.trust_remote_code:
            raise InputError(
                f"{self.flag} {self.name}: a {self.config.model_type!r} model takes no images with text; "
                "expected a vision-language model (transformers' image-text-to-text)"
            )

    def model(self, auto_class: Any, device: str | torch.device | None = None) -> Any:
        """The model with its weights, in eval mode; see `load_weights`. Loaded anew each time."""
        return load_weights(
            *(auto_class, self.name, device, self.dtype, self.trust_remote_code, self.quantization, self.flag),
            revision=self.revision,
        )

    @property
    def _where(self) -> dict[str, Any]:
        return {"trust_remote_code": self.trust_remote_code, "revision": self.revision or None}
