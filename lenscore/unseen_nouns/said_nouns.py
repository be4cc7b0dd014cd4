"""The nouns that are said of images, true or not; and plausible false ones, as in POPE."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lenscore.judging.patches import ImagePatches
from lenscore.unseen_nouns.answers import Answer
from lenscore.unseen_nouns.noun_lists import Nouns
from lenscore.word_maps.word_truth import WordTruth

SWAPS = ("random", "popular", "adversarial")
"""How false nouns are chosen among those that an image does not have: by chance; the most frequent of all images; those
that are most often together with its own."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class SaidNoun:
    """A noun that a text says of an image; each noun once an image and text.

    Attributes:
        image_id: of the analyze run.
        noun: its name in the list of nouns.
        word: how the text has it.
        sentence: where the text has it, the word in brackets; "" for a noun that no text says.
        source: "text", or one of `SWAPS`.
        probability: that of the model for the word at its place; NaN if it is not known.
        in_image: whether the image has it; None if that is not known.

    """

    image_id: int
    noun: str
    word: str
    sentence: str
    source: str
    probability: float
    in_image: bool | None


class NounTruth:
    """Which images have which nouns.

    Only nouns that some image has are known: what a truth never names (a "kitchen" among boxes of 80 kinds of objects)
    may be right.
    """

    def __init__(self, truth: WordTruth, nouns: Nouns) -> None:
        self.nouns_of = {
            image_id: frozenset(
                name for name, forms in nouns.forms.items() if any(forms & part.words for part in parts)
            )
            for image_id, parts in truth.parts.items()
        }
        self.images_with = Counter(name for names in self.nouns_of.values() for name in names)

    def has(self, image_id: int, noun: str) -> bool | None:
        """Whether an image has a noun; None if that is not known."""
        if image_id not in self.nouns_of or noun not in self.images_with:
            return None
        return noun in self.nouns_of[image_id]


def said_nouns(answers: Iterable[Answer], nouns: Nouns, truth: NounTruth | None) -> list[SaidNoun]:
    """The nouns of texts, in their order."""
    said = []
    for answer in answers:
        found = set()
        for noun, start, end in nouns.in_text(answer.text):
            if noun not in found:
                found.add(noun)
                known = truth.has(answer.image_id, noun) if truth else None
                word, chance = answer.text[start:end], answer.probability(start, end)
                sentence = _sentence(answer.text, start, end)
                said.append(SaidNoun(answer.image_id, noun, word, sentence, "text", chance, known))
    return said


def _sentence(text: str, start: int, end: int) -> str:
    """The sentence around the characters start..end, these in brackets."""
    breaks = [match.span() for match in _SENTENCE_END.finditer(text)]
    first = max((stop for _, stop in breaks if stop <= start), default=0)
    last = min((begin for begin, _ in breaks if begin >= end), default=len(text))
    return f"{text[first:start]}[{text[start:end]}]{text[end:last]}".strip()


def swapped_nouns(
    kind: str,
    said: Sequence[SaidNoun],
    truth: NounTruth,
    images: Mapping[int, ImagePatches],
    seed: int,
    is_allowed: Callable[[str], bool],
) -> list[SaidNoun]:
    """As many false nouns for each image as its texts say true ones, of those allowed; fewer if there are no more.

    POPE (Li et al., EMNLP 2023) asks for objects so. Equal ones are in the order of hashes of `seed`, the image and
    the noun, so that an image has the same false nouns in any run.
    """
    said_of: dict[int, set[str]] = {}
    for noun in said:
        said_of.setdefault(noun.image_id, set()).add(noun.noun)
    allowed = [name for name in truth.images_with if is_allowed(name)]
    false = []
    for image_id, said_here in said_of.items():
        true = sum(bool(truth.has(image_id, noun)) for noun in said_here)
        own = truth.nouns_of.get(image_id, frozenset())
        worth = Counter[str]()
        if kind == "popular":
            worth = truth.images_with
        elif kind == "adversarial":
            worth = Counter(
                name for names in truth.nouns_of.values() for name in names for _ in range(len(names & own))
            )
        absent = [name for name in allowed if name not in own and name not in said_here]
        sha256 = images[image_id].sha256
        absent.sort(key=lambda name: (-worth[name], hashlib.sha256(f"{seed}/{sha256}/{name}".encode()).digest()))
        false += [SaidNoun(image_id, name, name, "", kind, np.nan, False) for name in absent[:true]]
    return false
