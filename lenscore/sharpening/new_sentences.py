"""New sentences with the words of patches: from templates, or from a corpus. All choices are hashes of names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Protocol

import numpy as np

from lenscore.sharpening.inverted_index import InvertedIndex
from lenscore.sharpening.patch_words import PatchWords
from storage_layouts.errors import InputError

USUAL_TEMPLATES = ("{0} {1}", "the {0} {1}", "this {0} {1}", "there is the {0} {1}", "a picture of the {0} {1}")
"""The second word is the one that was found: in a causal model its state depends on what is before it."""


@dataclass(frozen=True)
class Request:
    """A sentence that is asked for: its name, from which what is random is drawn, and the words of a patch."""

    name: str
    words: PatchWords


class SentenceSource(Protocol):
    """Where new sentences come from."""

    def sentences(self, requests: Sequence[Request], used: Container[str]) -> list[str]:
        """A sentence for each request, "" where there is none that is not `used`; some may be equal."""
        ...


def drawn(name: str, weights: Mapping[str, float]) -> str:
    """One of some words, with a chance in proportion to its weight, that depends only on a name and the weights."""
    share = int.from_bytes(hashlib.sha256(f"lenscore.sharpening/{name}".encode()).digest()[:4], "little") / 2.0**32
    words, ends = list(weights), np.cumsum(list(weights.values()))
    return words[int(np.searchsorted(ends, share * ends[-1], side="right"))]


def checked_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """The templates. Raises InputError for one that has not both {0} and {1}, and nothing else in braces."""
    for template in templates:
        try:
            in_braces = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
        except ValueError:
            in_braces = []
        if sorted(set(in_braces)) != [("0", "", None), ("1", "", None)]:  # no attributes, formats or conversions
            raise InputError(
                f"--templates: found {template!r}, expected {{1}} where a found word stands and {{0}} where another "
                "one of its patch stands, as in 'a {0} {1}'"
            )
    if not templates:
        raise InputError("--templates: holds no template; expected lines such as 'a {0} {1}'")
    return tuple(templates)


class TemplateSource:
    """A found word of a patch and another of its words in a template.

    Attributes:
        templates: as `checked_templates` returns them.

    """

    def __init__(self, templates: Sequence[str]) -> None:
        self.templates = tuple(templates)

    def sentences(self, requests: Sequence[Request], used: Container[str]) -> list[str]:
        """See `SentenceSource`."""
        return [self._filled(request) for request in requests]

    def _filled(self, request: Request) -> str:
        name, words = request.name, request.words
        found = drawn(f"{name}/found", words.found)
        others = {word: weight for word, weight in words.words.items() if word != found}
        other = drawn(f"{name}/other", others) if others else found
        return drawn(f"{name}/template", dict.fromkeys(self.templates, 1.0)).format(other, found)


class CorpusSource:
    """The sentences of a corpus that hold two or more words of a patch, first those with the most of them."""

    def __init__(self, corpus: InvertedIndex) -> None:
        self._corpus = corpus

    def sentences(self, requests: Sequence[Request], used: Container[str]) -> list[str]:
        """See `SentenceSource`; no two are equal."""
        taken: set[str] = set()
        chosen = []
        for request in requests:
            holding = self._corpus.holding(list(request.words.words))
            text = next((text for text in holding if text not in used and text not in taken), "")
            taken.add(text)
            chosen.append(text)
        return chosen


@dataclass(frozen=True)
class Either:
    """What is in one of two containers."""

    one: Container[str]
    other: Container[str]

    def __contains__(self, text: object) -> bool:
        """Whether one of them has it."""
        return text in self.one or text in self.other


def collect(
    source: SentenceSource,
    requests: Callable[[int], Sequence[Request]],
    turns: int,
    used: Container[str],
    wanted: int | None = None,
) -> list[str]:
    """Distinct sentences that are not `used`, of `turns` requests for each patch; `requests` are those of a turn.

    With `wanted` at most so many, and no more turns than are needed.
    """
    found: dict[str, None] = {}
    for turn in range(turns):
        if wanted is not None and len(found) >= wanted:
            break
        known = Either(used, found)
        found |= dict.fromkeys(text for text in source.sentences(requests(turn), known) if text and text not in known)
    return list(found)[:wanted]
