"""Patchscopes: the next token that the model predicts when a state stands inside a prompt of somebody's choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import TopK
from lenscore.lenses.logit import LogitLens
from lenscore.lenses.next_token import NextToken
from lenscore.lenses.word_scores import WordIds, WordScores
from lenscore.models.decoder import require_room, text_config_of
from lenscore.models.greedy_answer import placeholders
from lenscore.models.loading import LanguageModel
from lenscore.models.patched_pass import PatchedPass
from storage_layouts.errors import InputError

PROMPTS = {
    "identity": "cat -> cat\n1135 -> 1135\nhello -> hello\n?",
    "description": (
        "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean multinational "
        "major appliance and consumer electronics corporation, x"
    ),
}
"""The prompts of the paper for token identity (section 4.1) and entities (section 4.3), as in the authors' notebooks
next_token_prediction.ipynb and entity_processing.ipynb (github.com/PAIR-code/interpretability, patchscopes/code). Its
figure 1 writes the first one as "cat->cat; 135->135; hello->hello; ?"."""

USUAL_PROMPT = "identity"
PROMPT_FLAG = "--patchscope-prompt"


def prompt_text(prompt: str) -> str:
    """The text of a prompt: one of `PROMPTS` by its name, or the text itself."""
    return PROMPTS.get(prompt, prompt)


def tokens_of_prompt(prompt: str, tokenizer: Any, config: Any, description_tokens: int = 0) -> tuple[list[int], int]:
    """The token ids of a prompt, as the tokenizer reads a text, and the place of the token that states replace.

    It is the last token, or the last one of the text in braces, as in "cat->cat; hello->hello; {x}->". `config` is that
    of the model. Raises InputError for an empty prompt, other braces, a text in braces whose end is not that of a
    token, tokens that stand for images, and a prompt that, with its description, is
    longer than the model's context.
    """
    text = prompt_text(prompt)
    parts = re.fullmatch(r"([^{}]*)(?:\{([^{}]+)\}([^{}]*))?", text)
    if parts is None or not text.strip():
        raise InputError(
            f"{PROMPT_FLAG} {prompt!r}: expected {', '.join(PROMPTS)} or a text, with braces around the token to "
            "replace if it is not the last one, as in cat->cat; hello->hello; {x}->"
        )
    before, marked, after = (part or "" for part in parts.groups())
    ids = _ids(before + marked + after, tokenizer)
    head = _ids(before + marked, tokenizer)
    if ids[: len(head)] != head:
        raise InputError(
            f"{PROMPT_FLAG} {prompt!r}: a token holds the end of {marked!r} and what follows; put a space there"
        )
    if set(ids) & set(placeholders(config)):
        raise InputError(f"{PROMPT_FLAG} {prompt!r}: holds a token that stands for an image; expected text alone")
    length = len(ids) + description_tokens
    what = f"{PROMPT_FLAG}: {length:,} tokens" + (" with the description" if description_tokens else "")
    require_room(length, text_config_of(config), what, "shorten it")
    return ids, len(head) - 1


def _ids(text: str, tokenizer: Any) -> list[int]:
    """With the special tokens that the tokenizer puts before a text, without those after it."""
    ids, bare = (tokenizer(text, add_special_tokens=special)["input_ids"] for special in (True, False))
    ends = range(len(bare), len(ids) + 1)
    return next((ids[:end] for end in ends if ids[end - len(bare) : end] == bare), ids)


def _ends(llm: LanguageModel) -> list[int]:
    """The tokens that end an answer of a model."""
    ends = getattr(llm.model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends, llm.tokenizer.eos_token_id]
    return sorted({end for end in ends if end is not None})


class Patchscopes:
    """LogitLens of what the last block makes of a state that stands in a prompt (Ghandeharioun et al. 2024).

    The state replaces the input of block l, its own layer, at one token of the prompt (arXiv 2401.06102, with the same
    source and target layer, as in the authors' notebooks). What comes out at the last token of the prompt is read as
    LogitLens reads it; layer `final` is LogitLens itself, if the token is the last one.
    """

    name: ClassVar[str] = "patchscopes"
    needs_store: ClassVar[bool] = False
    ids: ClassVar[Literal["rows", "tokens"]] = "tokens"

    def __init__(self, llm: LanguageModel, ids: Sequence[int], place: int, description_tokens: int = 0) -> None:
        self._tokenizer, self.description_tokens = llm.tokenizer, description_tokens
        self._logit, self._patched = LogitLens.from_model(llm), PatchedPass(llm.model, ids, place)
        self._ends = _ends(llm)

    @classmethod
    def from_model(cls, llm: LanguageModel, index: ContextualIndex | None = None) -> Patchscopes:
        """The lens with the prompt for token identity."""
        return cls.from_prompt(llm, USUAL_PROMPT)

    @classmethod
    def from_prompt(cls, llm: LanguageModel, prompt: str, description_tokens: int = 0) -> Patchscopes:
        """The lens with a prompt of `PROMPTS` or of one's own. Raises InputError as `tokens_of_prompt`."""
        ids, place = tokens_of_prompt(prompt, llm.tokenizer, llm.model.config)
        return cls(llm, ids, place, description_tokens)

    @torch.inference_mode()
    def top(self, states: Tensor, layers: Sequence[int], k: int) -> TopK:
        """The k largest logits of every state; see `Lens.top`."""
        return self._logit.top(self.run_on(states, layers), layers, k)

    @torch.inference_mode()
    def read(self, states: Tensor, layers: Sequence[int], k: int, last: Tensor) -> tuple[TopK, NextToken]:
        """The k largest logits of every state, and the whole distributions; see `NextTokenLens.read`.

        Divergences are from the distribution that the model itself reads off the token, in its own context.
        """
        return self._logit.read(self.run_on(states, layers), layers, k, last)

    def score_words(self, states: Tensor, layers: Sequence[int], words: Sequence[WordIds]) -> WordScores:
        """See `WordLens.score_words`, and `LogitLens.score_words`."""
        return self._logit.score_words(self.run_on(states, layers), layers, words)

    @torch.inference_mode()
    def describe(self, states: Tensor, layers: Sequence[int]) -> list[list[str]]:
        """How the model continues the prompt, each token the likeliest one; see `DescribingLens.describe`.

        All are candidates of the lens, so the first is its best one; the text ends before a token that ends answers.
        """
        count, ends = self.description_tokens, self._ends
        found = [
            self._patched.continuations(*one, lambda outputs: self._logit.likeliest(outputs, ends), count, ends)
            for one in zip(states, layers, strict=True)
        ]
        return [[self._text(ids) for ids in of_layer.tolist()] for of_layer in found]

    def _text(self, ids: Sequence[int]) -> str:
        length = next((place for place, one in enumerate(ids) if one in self._ends), len(ids))
        text: str = self._tokenizer.decode(ids[:length], clean_up_tokenization_spaces=False)
        return text

    def run_on(self, states: Tensor, layers: Sequence[int]) -> Tensor:
        """Outputs of the last block, of the shape and dtype of states [layers, n, dim]; see `PatchedPass.outputs`."""
        outputs = [self._patched.outputs(*one) for one in zip(states, layers, strict=True)]
        return torch.stack(outputs).to(states.dtype)
