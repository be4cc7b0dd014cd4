"""Files of human studies in the published format: the patches that people were shown, and their answers.

    DIR/data.json                   [{id, model, candidates: [word, or [phrase, token]], patch_row, patch_col, ...}]
    DIR/results/evaluation_*.json   {userId, sessionId, timestamp, results: [{instanceId, selectedWords: [{word,
                                    relation}], noneSelected}]}, one file a session, anywhere below DIR

(The format of the study of LatentLens, arXiv 2602.00462; `lens annotate` makes pages whose export is the same.)
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lenscore.judging.replies import unmarked
from lenscore.readings.words import folded, whole_word
from storage_layouts.errors import InputError

DATA = "data.json"


@dataclass(frozen=True)
class Item:
    """One instance of a study: a patch and its candidates. ``facts`` is the unchanged entry of data.json."""

    id: str
    model: str
    candidates: tuple[Candidate, ...]
    facts: dict[str, Any]

    @property
    def image(self) -> str:
        """Identifies the picture: its hash, or else its file name, or else the id of the item."""
        names = [self.facts.get(key) for key in ("image_sha256", "image_url", "image_file")]
        return next((f"image {name.rpartition('/')[2]}" for name in names if isinstance(name, str) and name), self.id)

    def offers(self, word: str) -> bool:
        """Whether a word, or its phrase, is among the candidates."""
        return any(_forms(word) & candidate.forms for candidate in self.candidates)


@dataclass(frozen=True)
class Candidate:
    """A candidate word, or a phrase with its token, in all forms that annotators may choose."""

    forms: frozenset[str]

    @classmethod
    def all_of(cls, entries: Any) -> tuple[Candidate, ...]:
        """Read a list of entries. Raises TypeError if it is not a list of entries."""
        if not isinstance(entries, list):
            raise TypeError(f"candidates: {entries!r:.80} is no list")
        return tuple(map(cls.of, entries))

    @classmethod
    def of(cls, entry: str | Sequence[str]) -> Candidate:
        """Read an entry: a word, or [phrase, token]; the whole words around the token are forms too.

        Raises TypeError for anything else.
        """
        texts = [entry] if isinstance(entry, str) else entry
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"candidate: {entry!r:.80} is neither a word nor [phrase, token]")
        words = _words_around(texts[1], texts[0]) if len(texts) == 2 else []
        return cls(frozenset().union(*map(_forms, [*texts, *words])))


def _words_around(token: str, phrase: str) -> list[str]:
    """The whole words that contain a token, one for each occurrence in the phrase; judges are shown these."""
    places = re.finditer(re.escape(token.strip()), phrase, re.IGNORECASE) if token.strip() else ()
    return [whole_word(phrase, *place.span()) for place in places]


def _forms(text: str) -> frozenset[str]:
    """A text without case, spaces and brackets; a text of nothing else stays as it is."""
    return frozenset({folded(text) or text, unmarked(text) or text})


@dataclass
class Study:
    """A human study.

    Attributes:
        items: by id, in the order of data.json.
        answers: for each answered item and annotator, whether the annotator chose one of the candidates.
        unmatched: names of unusable items and answers, by reason.

    """

    items: dict[str, Item]
    answers: dict[str, dict[str, bool]]
    unmatched: dict[str, list[str]] = field(default_factory=dict)


def read_study(folder: Path) -> Study:
    """Read data.json and every session below the folder.

    Of several answers of an annotator to an item, the latest one counts. Raises InputError if there is no data.json,
    no session, or a JSON file that is neither.
    """
    if not (folder / DATA).exists():
        raise InputError(f"{folder}: {_no_study(folder)}")
    items = _read_items(folder / DATA)
    given: dict[tuple[str, str], tuple[str, list[str]]] = {}
    unmatched: dict[str, list[str]] = defaultdict(list)
    sessions = [path for path in sorted(folder.rglob("*.json")) if path.name != DATA and path.name[0] != "."]
    if not sessions:
        raise InputError(f"{folder}: holds no answers; put the files that the page exported into {folder / 'results'}")
    for path in sessions:
        for annotator, item, when, words in _read_session(path):
            if (annotator, item) in given:
                again = unmatched["answered more than once by one person; the latest answer counts"]
                again.append(f"{item} by {annotator}")
            given[annotator, item] = max(given.get((annotator, item), ("", [])), (when, words))
    answers: dict[str, dict[str, bool]] = {}
    for (annotator, name), (_, words) in given.items():
        if name not in items:
            unmatched[f"answered, but not in {DATA}"].append(f"{name} by {annotator}")
            continue
        foreign = [word for word in words if not items[name].offers(word)]
        for word in foreign:
            unmatched["chosen, but not among the candidates"].append(f"{word!r} for {name} by {annotator}")
        answers.setdefault(name, {})[annotator] = len(foreign) < len(words)
    unanswered = [name for name in items if name not in answers]
    if unanswered:
        unmatched["answered by nobody"] = unanswered
    return Study(items, answers, dict(unmatched))


def _no_study(folder: Path) -> str:
    """The reason why a path is not the folder of a study, and the remedy."""
    expected = f"expected the folder that holds {DATA} and the answers"
    if not folder.exists():
        return f"no such folder; {expected}"
    if folder.is_file():
        if zipfile.is_zipfile(folder):
            return f"a zip archive; unzip it first, and name the folder with {DATA}"
        return f"a file; {expected}"
    archives = sorted(path.name for path in folder.glob("*.zip"))
    inside = sorted(path.parent for path in folder.glob(f"*/{DATA}"))
    if inside:
        return f"no {DATA} in it; did you mean {inside[0]}?"
    if archives:
        return f"no {DATA} in it; if {archives[0]} is the study, unzip it first"
    return f"no {DATA} in it; {expected}"


def read_json(path: Path) -> Any:
    """The content of a JSON file of a study. Raises InputError if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no readable JSON ({error})") from None


def _read_items(path: Path) -> dict[str, Item]:
    entries = read_json(path)
    try:
        items = [
            Item(str(entry["id"]), str(entry["model"]), Candidate.all_of(entry["candidates"]), _placed(entry))
            for entry in entries
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: found an entry without a usable {error}; expected [{{id, model, candidates, patch_row, "
            "patch_col, ...}, ...] as in the published human study"
        ) from None
    often = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if often:
        raise InputError(f"{path}: the id {often[0]!r} stands there more than once; every instance needs its own")
    return {item.id: item for item in items}


def _placed(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns the entry. Raises TypeError if its row or column is not an integer."""
    for name in ("patch_row", "patch_col"):
        if type(entry.get(name, 0)) is not int:
            raise TypeError(f"{name}: {entry[name]!r:.40} is no whole number")
    return entry


def _read_session(path: Path) -> Iterable[tuple[str, str, str, list[str]]]:
    """(annotator, item, timestamp, chosen words) of every answer of a session."""
    session = read_json(path)
    try:
        return [
            (
                str(session["userId"]),
                str(result["instanceId"]),
                str(result.get("timestamp") or session.get("timestamp") or ""),
                [str(chosen["word"]) for chosen in result["selectedWords"]],
            )
            for result in session["results"]
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: is no session of a human study (no usable {error}); expected {{userId, results: [{{instanceId, "
            "selectedWords: [{word, relation}], noneSelected}]}; take other files out of the folder"
        ) from None
