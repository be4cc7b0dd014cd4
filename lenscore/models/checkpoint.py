"""A checkpoint, in a folder or on the Hugging Face Hub; each of its parts is loaded once, at its first use."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)
from transformers.utils import is_torchvision_available
from transformers.utils.logging import disable_progress_bar

from lenscore.models.connector_config import ConnectorConfig
from lenscore.models.flag_types import Quantization
from lenscore.models.source import downloaded_commit, require_source, why_not_loaded
from lenscore.models.weight_sizes import weight_bytes
from lenscore.models.weights import fits_on_gpus, quantization_config
from storage_layouts.errors import InputError, first_line
from storage_layouts.runs import RunFolder

_PARTS = ("config", "tokenizer", "processor")


@dataclass(frozen=True)
class Checkpoint:
    """Where a model comes from, and in which dtype its weights are held.

    Every part raises InputError if there is no such model or revision, if the part is missing, or if the model needs
    its own code without `trust_remote_code`.

    Attributes:
        name: a folder or a Hub name.
        revision: branch, tag or commit of a Hub model; None or "" for its main branch.
        trust_remote_code: run Python code that comes with the model.
        dtype: of the weights; None or "auto" keeps the checkpoint's dtype.
        quantization: "8bit" and "4bit" need bitsandbytes and a GPU.
        flag: the command-line flag that named the model, for messages.

    """

    name: str | os.PathLike[str]
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: torch.dtype | str | None = None
    quantization: Quantization = "none"
    flag: str = "--model"

    @classmethod
    def of_run(cls, run: RunFolder, trust_remote_code: bool, dtype: str | None = None) -> Checkpoint:
        """The model of the run of --results, at its commit, with its quantization and, if none is given, its dtype."""
        config, commit = run.config, run.inputs.get("model", {}).get("revision")
        revision = None if Path(config["model"]).is_dir() else commit or config.get("revision")
        kind, quantization = dtype or config.get("dtype", "auto"), config.get("quantization", "none")
        return cls(config["model"], revision, trust_remote_code, kind, quantization, f"--results {run.path}: its model")

    def at(self, commit: str | None) -> Checkpoint:
        """The checkpoint at a commit (None for a folder); the parts that were loaded stay so if they are of it."""
        pinned = replace(self, revision=commit)
        if "config" in vars(self) and self.config._commit_hash == commit:
            vars(pinned).update({part: vars(self)[part] for part in _PARTS if part in vars(self)})
        return pinned

    @cached_property
    def config(self) -> Any:
        """The configuration, without weights; its `_commit_hash` is that of a Hub model, None of a folder."""
        require_source(self.name, self.revision, self.flag)
        try:
            config = AutoConfig.from_pretrained(self.name, **self._where)
        except (OSError, ValueError) as error:
            self._refuse_remote_code(error)
            raise self._error(why_not_loaded(self.name, self.revision, error)) from None
        if isinstance(config, ConnectorConfig):
            importlib.import_module("lenscore.models.connector_model")  # registers the model with transformers
        config._commit_hash = downloaded_commit(self.name, self.revision)  # transformers 5.23 no longer sets it
        return config

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer, that of the processor if there is one already; a slow one has no character offsets."""
        try:
            tokenizer = (
                self.processor.tokenizer
                if "processor" in vars(self)
                else AutoTokenizer.from_pretrained(self.name, **self._where)
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            self._refuse_remote_code(error)
            raise self._error(f"its tokenizer cannot be loaded: {first_line(error)}") from None
        if not tokenizer.is_fast:
            raise self._error(
                "only a slow tokenizer was found, which has no character offsets; "
                "expected tokenizer.json beside the model"
            )
        return tokenizer

    @cached_property
    def processor(self) -> Any:
        """The processor, which turns images and text into the model's inputs."""
        from lenscore.models.processors import load_processor  # loads code for images, which text does not need

        try:
            processor = load_processor(self.name, self.trust_remote_code, self.revision)
        except (OSError, ValueError, ImportError, KeyError) as error:
            self._refuse_remote_code(error)
            hint = "" if is_torchvision_available() else " (torchvision is not installed, which some processors need)"
            raise self._error(f"its processor cannot be loaded: {first_line(error)[:200]}{hint}") from None
        if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
            raise self._error(
                f"found only a {type(processor).__name__}; expected a processor for images "
                "and text (processor_config.json or preprocessor_config.json, and the tokenizer's files)"
            )
        return processor

    @cached_property
    def weight_bytes(self) -> int | None:
        """Bytes of its weights in memory, in their dtype and not quantized; None if not known before loading."""
        dtype = getattr(self.config, "dtype", None) if self.dtype in (None, "auto") else self.dtype
        return weight_bytes(self.name, self.revision, getattr(torch, dtype) if isinstance(dtype, str) else dtype)

    @property
    def text_class(self) -> Any:
        """The transformers class of a model that reads text: a causal LM, or a VLM (its LLM reads the text)."""
        if type(self.config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return AutoModelForImageTextToText
        has_code = self.trust_remote_code and hasattr(self.config, "auto_map")
        if type(self.config) in MODEL_FOR_CAUSAL_LM_MAPPING or has_code:
            return AutoModelForCausalLM
        raise self._error(
            f"a {self.config.model_type!r} model is no language model; expected a causal LM or a vision-language model"
        )

    def require_vision(self) -> None:
        """Raises InputError unless the model takes images together with text."""
        if type(self.config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not self.trust_remote_code:
            raise self._error(
                f"a {self.config.model_type!r} model takes no images with text; "
                "expected a vision-language model (transformers' image-text-to-text)"
            )

    def model(
        self,
        auto_class: Any,
        device: str | torch.device | None = None,
        unused: Callable[[Any], Iterable[torch.nn.Parameter]] = lambda model: (),
    ) -> Any:
        """Load the model with its weights, in eval mode; a new one at each call.

        Each tensor is read from the file directly to the device, so host memory never holds the whole model.
        `device` None is CUDA if available; "spread" divides the blocks among all visible GPUs. `unused` names weights
        of the model that the checkpoint may lack. Raises InputError if other weights are missing (transformers would
        initialise them at random), cannot be loaded or do not fit, or if `quantization` is not possible here.
        """
        if not sys.stderr.isatty():  # a log on a full disk would end the loading, with an error about the weights
            disable_progress_bar()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if str(device) == "spread":
            device_map: Any = "balanced" if torch.cuda.is_available() else None
        else:
            device_map = None if str(device) == "cpu" else {"": device}
        settings = quantization_config(self.quantization, str(device))
        try:
            model, report = auto_class.from_pretrained(
                self.name,
                dtype=self.dtype or "auto",
                device_map=device_map,
                trust_remote_code=self.trust_remote_code,
                revision=self.revision or "main",
                output_loading_info=True,
                **settings,
            )
        except torch.OutOfMemoryError:
            raise self._error(
                f"does not fit into the memory of {device}; free it, spread the model over several GPUs "
                "(in Python: device='spread'), or hold it in 8 or 4 bits (--quantization)"
            ) from None
        except Exception as error:  # transformers, safetensors and torch raise nearly anything on broken checkpoints
            self._refuse_remote_code(error)
            hint = "; expected safetensors, or a pickle of tensors" if isinstance(error, pickle.UnpicklingError) else ""
            raise self._error(f"its weights cannot be loaded: {first_line(error)}{hint}") from error
        weights = dict(model.named_parameters())
        spare = set(map(id, unused(model)))
        if missing := sorted(name for name in report["missing_keys"] if id(weights.get(name)) not in spare):
            head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
            of_head = {name for name, weight in model.named_parameters() if weight is getattr(head, "weight", None)}
            hint = (
                'if its head is the input embeddings, config.json needs "tie_word_embeddings": true'
                if set(missing) == of_head
                else "is config.json that of this checkpoint?"
            )
            raise self._error(
                f"the checkpoint lacks {len(missing)} of the model's weights, e.g. {missing[0]}; "
                f"expected all of them ({hint})"
            )
        if not fits_on_gpus(model):
            raise self._error(
                f"does not fit on the {torch.cuda.device_count()} visible GPUs; "
                "use more of them, or hold it in 8 or 4 bits (--quantization)"
            )
        return model.eval()

    @property
    def _where(self) -> dict[str, Any]:
        return {"trust_remote_code": self.trust_remote_code, "revision": self.revision or None}

    def _error(self, reason: str) -> InputError:
        return InputError(f"{self.flag} {self.name}: {reason}")

    def _refuse_remote_code(self, error: BaseException) -> None:
        """Raises InputError if transformers failed because the model needs its own Python code."""
        if "trust_remote_code" in str(error):
            raise self._error(
                "refused, because it comes with its own Python code, which would run on this machine; "
                "if you trust it, add --trust-remote-code (in Python: trust_remote_code=True)"
            ) from None
