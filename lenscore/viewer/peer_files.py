"""The result files of the latentlens paper's scripts, read into columns: one lens at one visual layer a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.judging.candidates import token_word
from lenscore.reading import Word
from lenscore.words import whole_word
from storage_layouts.errors import InputError
from storage_layouts.latentlens_results import FORMATS, LATENT, ResultsFile, numbers_of, parse_file


@dataclass(frozen=True)
class PeerLayer:
    """What one file says.

    Attributes:
        patches: int32 ``[n, 4]``: image, chunk, row, column.
        which: int32 ``[n, k]``: places in the words of the lens; -1 where there are fewer than k.
        scores: float32 ``[n, k]``; NaN where ``which`` is -1.
        contextual_layers: int16 ``[n, k]``; None for lenses that search no store.

    """

    patches: npt.NDArray[np.int32]
    which: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    contextual_layers: npt.NDArray[np.int16] | None


@dataclass
class PeerModel:
    """The files of one model.

    Attributes:
        checkpoint: what they say of the model.
        files: where they are.
        layers: by lens and visual layer.
        words: by lens, the distinct candidates.
        captions: by image.
        chunks: names by chunk number.

    """

    checkpoint: str
    files: dict[tuple[str, int], Path] = field(default_factory=dict)
    layers: dict[tuple[str, int], PeerLayer] = field(default_factory=dict)
    words: dict[str, list[Word]] = field(default_factory=dict)
    captions: dict[int, str] = field(default_factory=dict)
    chunks: dict[int, str] = field(default_factory=dict)


def read_peer_files(files: Sequence[Path]) -> list[PeerModel]:
    """Read result files, brought together by what they call their checkpoint.

    Raises InputError for a file that cannot be used, or two of the same model, lens and layer.
    """
    models: dict[str, PeerModel] = {}
    places: dict[tuple[str, str], dict[tuple[str, str, int], int]] = {}
    for file in files:
        parsed = parse_file(file)
        model = models.setdefault(parsed.checkpoint, PeerModel(parsed.checkpoint))
        key = parsed.lens, parsed.layer
        if key in model.files:
            raise InputError(
                f"{file}: the lens {parsed.lens} at layer {parsed.layer} of {parsed.checkpoint or 'the same model'} "
                f"is in {model.files[key]} too; name folders that hold each once"
            )
        model.files[key] = file
        words = model.words.setdefault(parsed.lens, [])
        known = places.setdefault((parsed.checkpoint, parsed.lens), {})
        model.layers[key] = _columns(parsed, file, words, known)
        model.captions = parsed.captions | model.captions
        model.chunks = parsed.chunks | model.chunks
    return list(models.values())


def _columns(parsed: ResultsFile, file: Path, words: list[Word], known: dict[tuple[str, str, int], int]) -> PeerLayer:
    form, count = FORMATS[parsed.lens], len(parsed.patches)
    k = max((len(found.candidates) for found in parsed.patches), default=0)
    which = np.full((count, k), -1, np.int32)
    scores = np.full((count, k), np.nan, np.float32)
    contexts = np.full((count, k), -1, np.int16) if parsed.lens == LATENT else None
    for line, found in enumerate(parsed.patches):
        ranks = len(found.candidates)
        scores[line, :ranks] = numbers_of(found, form.score, file)
        if contexts is not None:
            contexts[line, :ranks] = numbers_of(found, "contextual_layer", file, -1)
        for rank, candidate in enumerate(found.candidates):
            key = _key(parsed.lens, candidate)
            place = known.get(key)
            if place is None:
                place = known[key] = len(words)
                words.append(_word(parsed.lens, *key))
            which[line, rank] = place
    if np.isnan(scores[which >= 0]).any():
        raise InputError(f"{file}: a candidate's {form.score} is no number (NaN)")
    patches = np.array([(one.image, one.chunk, one.row, one.col) for one in parsed.patches], np.int32).reshape(-1, 4)
    return PeerLayer(patches, which, scores, contexts)


def _key(lens: str, candidate: dict[str, Any]) -> tuple[str, str, int]:
    if lens == LATENT:
        return (
            str(candidate.get("token_str", "")),
            str(candidate.get("caption", "")),
            int(candidate.get("position", -1)),
        )
    return str(candidate.get("token", "")), "", -1


def _word(lens: str, token: str, sentence: str, position: int) -> Word:
    text = token_word(token)
    if lens != LATENT or not text or text not in sentence:
        return Word(text or token, token, sentence)
    start = _place(text, sentence, position)
    return Word(whole_word(sentence, start, start + len(text)) or text, token, sentence, start, start + len(text))


def _place(text: str, sentence: str, position: int) -> int:
    """Where a token stands, of whose place the files say only which token of the sentence it is.

    Where its text occurs several times, that one is taken before which about as many words stand.
    """
    starts, at = [], sentence.find(text)
    while at >= 0:
        starts.append(at)
        at = sentence.find(text, at + 1)
    return min(starts, key=lambda start: abs(len(sentence[:start].split()) - position))
