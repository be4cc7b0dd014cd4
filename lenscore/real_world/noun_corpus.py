"""The corpus of the real world: sentences that name what the scenes show, and as many others."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from lenscore.contexts.concepts_corpus import CONCEPTS_MEMBER

SENTENCES_PER_NOUN = 15


def write_corpus(wheel: Path, nouns: Collection[str], file: Path) -> None:
    """Choose sentences of the latentlens package and write them, one a line.

    In the order of a hash of the sentences, the first `SENTENCES_PER_NOUN` that hold each noun (or its plural in -s)
    as a word, and as many sentences in all that hold none.
    """
    with zipfile.ZipFile(wheel) as archive:
        sentences = set(archive.read(CONCEPTS_MEMBER).decode("utf-8").splitlines()) - {""}
    forms = {form: noun for noun in nouns for form in (noun, f"{noun}s")}
    seen: Counter[str] = Counter()
    chosen: list[str] = []
    others: list[str] = []
    for sentence in sorted(sentences, key=lambda text: hashlib.sha256(text.encode()).digest()):
        named = {forms[word] for word in re.findall(r"[a-z]+", sentence.lower()) if word in forms}
        if not named:
            others.append(sentence)
        elif any(seen[noun] < SENTENCES_PER_NOUN for noun in named):
            chosen.append(sentence)
            seen.update(named)
    lines = sorted([*chosen, *others[: len(chosen)]])
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
