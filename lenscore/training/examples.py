"""How a pair of image and caption becomes tokens, and which pairs no model can learn from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lenscore.training.pairs import Pair
from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError

IGNORED = -100
"""Label of the positions that count for nothing, as in transformers."""
CUT = "captions cut at --max-tokens"

Row = tuple[list[int], list[int]]
"""Token ids and labels of an example."""

_SENTENCE = re.compile(r".*?[.!?]+[\"')\]]*(?=\s|$)", re.DOTALL)


def first_sentence(text: str) -> str:
    """The text up to the end of its first sentence: a full stop, exclamation or question mark before a blank."""
    found = _SENTENCE.match(text)
    return found.group() if found else text


@dataclass(frozen=True)
class TextRules:
    """How a pair becomes text: image, prompt (the pair's own, else this one), caption, end.

    `max_tokens` is the length at which an example is cut, image included.
    """

    prompt: str = ""
    first_sentence: bool = False
    max_tokens: int = 1600


class Examples:
    """Pairs as tokens of one language model; an image is as many image tokens as it has visual tokens."""

    def __init__(self, tokenizer: Any, image_token: str, visual_tokens: int, rules: TextRules) -> None:
        self._tokenizer, self._image_token, self._visual_tokens = tokenizer, image_token, visual_tokens
        self._rules = rules
        self._given = lru_cache(maxsize=1024)(self._tokens_of_prompt)

    def row(self, pair: Pair, learnt: bool = True) -> Row:
        """The ids of image, prompt, caption and end, and as labels those of caption and end."""
        given = self._given(pair.prompt or self._rules.prompt)
        said = self._said(pair)[: self._rules.max_tokens - len(given)]
        return [*given, *said], [IGNORED] * len(given) + (said if learnt else [IGNORED] * len(said))

    def require_room(self, pairs: Iterable[Pair], positions: int | None, notes: Notes) -> None:
        """Check the length of every example; `notes` counts the captions that are cut.

        Args:
            pairs: the pairs of a training.
            positions: how many tokens the language model takes; None if it has no limit.
            notes: takes the captions that are cut.

        Raises:
            InputError: naming a pair, if there is no room for its caption, if it is longer than the model takes, or if
                its text holds the image token.

        """
        most = self._rules.max_tokens
        for pair in pairs:
            where = f"{pair.source} ({pair.caption[:40]!r})"
            prompt = pair.prompt or self._rules.prompt
            if self._image_token in prompt or self._image_token in pair.caption:
                raise InputError(
                    f"--data: {where}: its text holds {self._image_token!r}, which stands for the image; take it out "
                    "of the text, or choose another --image-token"
                )
            given = len(self._given(prompt))
            if given >= min(most, positions or most):
                limit = f"--max-tokens is {most}" if given >= most else f"the language model takes {positions}"
                raise InputError(
                    f"--data: {where}: image and prompt have {given} tokens ({self._visual_tokens} of the image), but "
                    f"{limit}; expected room for a caption"
                )
            # A token has a byte at least, and few captions are near the limit.
            if given + len(pair.caption.encode()) + 2 <= min(most, positions or most):
                continue
            length = given + len(self._said(pair))
            if positions and min(length, most) > positions:
                raise InputError(
                    f"--data: {where}: image, prompt and caption have {length} tokens, but the language model takes "
                    f"{positions}; --max-tokens {positions} cuts such captions"
                )
            if length > most:
                notes.add(f"{CUT} {most}", pair.source.rpartition("/")[2])

    def _tokens_of_prompt(self, prompt: str) -> list[int]:
        ids: list[int] = self._tokenizer(f"{self._image_token} {prompt}".rstrip())["input_ids"]
        image = self._tokenizer.convert_tokens_to_ids(self._image_token)
        place = ids.index(image)
        return [*ids[:place], *[image] * self._visual_tokens, *ids[place + 1 :]]

    def _said(self, pair: Pair) -> list[int]:
        caption = first_sentence(pair.caption) if self._rules.first_sentence else pair.caption
        ids = self._tokenizer(f" {caption}", add_special_tokens=False)["input_ids"]
        return [*ids, self._tokenizer.eos_token_id]
