"""The corpus `phrases`: some thousand short phrases about what images show, made from word lists of our own.

    python -m lenscore.contexts.phrase_corpus

writes data/phrases.txt anew from data/phrase_words.yaml: always the same bytes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from storage_layouts.counts import plural

DATA = Path(__file__).parent / "data"
PHRASES = DATA / "phrases.txt"

_SLOT = re.compile(r"\{(\w+)(\+?)\}")


def make_phrases(content: dict[str, Any]) -> list[str]:
    """All phrases of word lists and patterns, each once, in an order that does not depend on the patterns.

    Every pattern is filled as often as its longest list has words, so every word occurs in each pattern of its list,
    unless the phrase would have a word twice. The lists are shuffled by (pattern, place in it, round).
    """
    lists = {name: text.split(", ") for name, text in content["words"].items()}
    lists |= {
        name: [word for one in parts.split(", ") for word in lists[one]] for name, parts in content["joined"].items()
    }
    exceptions = tuple(content["no_an"].split(", "))
    phrases = dict.fromkeys(
        _with_articles(phrase, exceptions) for pattern in content["patterns"] for phrase in _filled(pattern, lists)
    )
    found = list(phrases)
    random.Random("phrases").shuffle(found)  # noqa: S311 - no secret
    return found


def _filled(pattern: str, lists: dict[str, list[str]]) -> Iterator[str]:
    slots = _SLOT.findall(pattern)
    columns = [
        _drawn(lists[name], max(len(lists[one]) for one, _ in slots), f"{pattern} {place}")
        for place, (name, _) in enumerate(slots)
    ]
    for words in zip(*columns, strict=True):
        if len(set(words)) == len(words):
            forms = iter(_form(word, mark == "+") for word, (_, mark) in zip(words, slots, strict=True))
            yield _SLOT.sub(lambda _, forms=forms: next(forms), pattern)  # type: ignore[misc]


def _drawn(words: list[str], count: int, seed: str) -> list[str]:
    """So many words: the whole list in one order, then in another, and so on."""
    drawn: list[str] = []
    while len(drawn) < count:
        again = words.copy()
        random.Random(f"{seed} {len(drawn)}").shuffle(again)  # noqa: S311 - no secret
        drawn += again
    return drawn[:count]


def _form(word: str, in_plural: bool) -> str:
    singular, _, irregular = word.partition("/")
    return (irregular or plural(singular)) if in_plural else singular


def _with_articles(phrase: str, exceptions: tuple[str, ...]) -> str:
    """The phrase with "an" in the place of "a" before a vowel."""
    return re.sub(
        r"\ba (?=[aeiouAEIOU])",
        lambda found: "a " if phrase.startswith(exceptions, found.end()) else "an ",
        phrase,
    )


if __name__ == "__main__":
    content = yaml.safe_load((DATA / "phrase_words.yaml").read_text(encoding="utf-8"))
    PHRASES.write_text("\n".join(make_phrases(content)) + "\n", encoding="utf-8")
