"""Tuned Lens: LogitLens on states that an affine translator has brought into the form of the last layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import TopK
from lenscore.lenses.logit import LogitLens
from lenscore.lenses.next_token import NextToken
from lenscore.lenses.references import References
from lenscore.lenses.word_scores import WordIds, WordScores
from lenscore.models.decoder import text_config_of
from lenscore.models.fingerprints import text_weights_fingerprint
from lenscore.models.loading import LanguageModel
from storage_layouts.errors import InputError
from storage_layouts.tuned_lens import TunedLensFiles, unembed_hash


class TunedLens:
    """LogitLens of h + W_l h + b_l, in float32 (Belrose et al. 2023, arXiv 2303.08112).

    `translators` are the (W_l [dim, dim], b_l [dim]) of layers 0, 1, ...; layer `final`, the output of the last block,
    has none. They are trained on text (`lens tune`).
    """

    name: ClassVar[str] = "tuned"
    needs_store: ClassVar[bool] = False
    ids: ClassVar[Literal["rows", "tokens"]] = "tokens"

    def __init__(self, logit: LogitLens, translators: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._logit, self._translators = logit, translators

    @classmethod
    def from_model(cls, llm: LanguageModel, index: ContextualIndex | None = None) -> TunedLens:
        """Raises InputError: it needs translators; see `from_files`."""
        raise InputError("--lenses tuned: needs translators; give --tuned RUN, made by `lens tune`")

    @classmethod
    def from_files(cls, llm: LanguageModel, files: TunedLensFiles) -> TunedLens:
        """The lens with the translators of a folder. Raises InputError if they are of another model."""
        require_same_width(files, llm.name, llm.model.config)
        require_same_head(files, llm)
        logit = LogitLens.for_use(llm, f"--lenses {cls.name}", "leave the lens out")
        return cls(logit, [(weight.to(logit.device), bias.to(logit.device)) for weight, bias in files.translators()])

    @torch.inference_mode()
    def top(self, states: Tensor, layers: Sequence[int], k: int) -> TopK:
        """The k largest logits of every state; see `Lens.top`."""
        return self._logit.top(self.translated(states, layers), layers, k)

    @torch.inference_mode()
    def read(self, states: Tensor, layers: Sequence[int], k: int, last: Tensor) -> tuple[TopK, NextToken]:
        """The k largest logits of every state, and the whole distributions; see `NextTokenLens.read`."""
        return self._logit.read(self.translated(states, layers), layers, k, last)

    def score_words(self, states: Tensor, layers: Sequence[int], words: Sequence[WordIds]) -> WordScores:
        """See `WordLens.score_words`, and `LogitLens.score_words`."""
        return self._logit.score_words(self.translated(states, layers), layers, words)

    def compared(self, states: Tensor, layers: Sequence[int]) -> Tensor:
        """See `VectorLens.compared`: translated states behind the final norm."""
        return self._logit.compared(self.translated(states, layers), layers)

    def references(self) -> Mapping[int, References]:
        """See `LogitLens.references`."""
        return self._logit.references()

    def translated(self, states: Tensor, layers: Sequence[int]) -> Tensor:
        """States [layers, n, dim] in the form of the last layer, float32."""
        return torch.stack([self._translate(*one) for one in zip(states, layers, strict=True)])

    def _translate(self, states: Tensor, layer: int) -> Tensor:
        states = states.to(self._logit.device, torch.float32)
        if layer == len(self._translators):
            return states
        weight, bias = self._translators[layer]
        return states + (states @ weight.T + bias)


def require_same_width(files: TunedLensFiles, name: str, config: object) -> None:
    """Raises InputError if a Tuned Lens is of a model of another width or depth than that of this configuration."""
    text, lens = text_config_of(config), files.config
    for what, found, expected in (
        ("states of width d_model", lens.d_model, text.hidden_size),
        ("num_hidden_layers", lens.num_hidden_layers, text.num_hidden_layers),
    ):
        if found != expected:
            _refuse(files, name, f"{what} {found}", str(expected))


def require_same_head(files: TunedLensFiles, llm: LanguageModel) -> None:
    """Raises InputError if a Tuned Lens was made with another LM head, or (if it is a run) other blocks.

    A head may have more rows than the one that it was made with, because a VLM adds tokens to its LLM.
    """
    head = llm.model.get_output_embeddings()
    expected = files.config.unembed_hash
    if head is not None and expected is not None:
        fewest = len(llm.tokenizer) - len(llm.tokenizer.get_added_vocab())
        rows = range(len(head.weight), min(fewest, len(head.weight)) - 1, -1)
        if not any(unembed_hash(head.weight, count) == expected for count in rows):
            _refuse(files, llm.name, f"an LM head of hash {expected[:12]}", unembed_hash(head.weight)[:12])
    if files.weights_hash is not None:
        blocks = text_weights_fingerprint(llm.model)
        if blocks != files.weights_hash:
            _refuse(files, llm.name, f"decoder weights {files.weights_hash[:12]}", blocks[:12])


def _refuse(files: TunedLensFiles, name: str, found: str, expected: str) -> None:
    raise InputError(
        f"--tuned {files.path}: made for {files.config.base_model_name_or_path} with {found}, but the language model "
        f"of {name} has {expected}; make one with `lens tune --model` and this model"
    )
