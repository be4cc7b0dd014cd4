"""The result files of the latentlens paper's scripts, read into columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.readings.image_reading import Word
from lenscore.readings.words import token_word, whole_word
from storage_layouts.errors import InputError
from storage_layouts.latentlens_results import (
    LATENT,
    ResultsFile,
    form_of,
    numbers_of,
    text_of,
    whole_number,
    whole_numbers_of,
)
from storage_layouts.single_image import parse_files


@dataclass(frozen=True)
class PeerLayer:
    """The results of one file.

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
        checkpoint: the model's name in the files.
        files: their paths, by lens and visual layer, then by the only contextual layer (None: all in one file).
        layers: by lens and visual layer.
        words: by lens, the distinct candidates.
        captions: by image.
        chunks: names by chunk number.
        image_path: path of the image in a file of one image; "" if there is none.

    """

    checkpoint: str
    files: dict[tuple[str, int], dict[int | None, Path]] = field(default_factory=dict)
    layers: dict[tuple[str, int], PeerLayer] = field(default_factory=dict)
    words: dict[str, list[Word]] = field(default_factory=dict)
    captions: dict[int, str] = field(default_factory=dict)
    chunks: dict[int, str] = field(default_factory=dict)
    image_path: str = ""

    @property
    def image_ids(self) -> list[int]:
        """The images of all layers, ascending."""
        return sorted({int(i) for layer in self.layers.values() for i in np.unique(layer.patches[:, 0])})

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [file for parts in self.files.values() for file in parts.values()]


def read_peer_files(files: Sequence[Path]) -> list[PeerModel]:
    """Read result files, grouped by their checkpoint.

    Files of one contextual layer each are merged by similarity, visual layer by visual layer. Raises InputError for a
    file that cannot be used, and for two files of the same model, lens and layers.
    """
    models: dict[str, PeerModel] = {}
    places: dict[tuple[str, str], dict[tuple[str, str, int], int]] = {}
    for file in files:
        for parsed in parse_files(file):
            model = models.setdefault(parsed.checkpoint, PeerModel(parsed.checkpoint))
            words = model.words.setdefault(parsed.lens, [])
            known = places.setdefault((parsed.checkpoint, parsed.lens), {})
            _add(model, parsed, file, _columns(parsed, file, words, known))
            model.captions = {image: text for image, text in parsed.captions.items() if text} | model.captions
            model.chunks = parsed.chunks | model.chunks
            model.image_path = model.image_path or parsed.image_path
    return list(models.values())


def _add(model: PeerModel, parsed: ResultsFile, file: Path, layer: PeerLayer) -> None:
    """Put a layer into its model, or merge it with a layer of other files."""
    key, only = (parsed.lens, parsed.layer), parsed.contextual_layer
    before = model.files.setdefault(key, {})
    if only in before or (before and (only is None or None in before)):
        where = "" if only is None else f", contextual layer {only},"
        raise InputError(
            f"{file}: the lens {parsed.lens} at layer {parsed.layer}{where} of {parsed.checkpoint or 'the same model'} "
            f"is also in {before.get(only) or next(iter(before.values()))}; name folders that hold each once"
        )
    if before:
        layer = _merged(model.layers[key], layer, f"{file} and {next(iter(before.values()))}")
    before[only] = file
    model.layers[key] = layer


def _merged(one: PeerLayer, other: PeerLayer, where: str) -> PeerLayer:
    """The best k of both at each patch, by similarity; a stable sort."""
    orders = [np.lexsort(layer.patches.T[::-1]) for layer in (one, other)]
    patches = one.patches[orders[0]]
    if not np.array_equal(patches, other.patches[orders[1]]):
        raise InputError(f"{where}: have the same visual layer, but not the same patches; they cannot be merged")

    def both(name: str) -> npt.NDArray[Any]:
        columns = zip((getattr(one, name), getattr(other, name)), orders, strict=True)
        return np.concatenate([column[order] for column, order in columns], axis=1)

    k = max(one.which.shape[1], other.which.shape[1])
    best = np.argsort(-both("scores"), axis=1, kind="stable")[:, :k]  # NaN, where there is no candidate, comes last
    columns = ("which", "scores", "contextual_layers")
    return PeerLayer(patches, *(np.take_along_axis(both(name), best, axis=1) for name in columns))


def _columns(parsed: ResultsFile, file: Path, words: list[Word], known: dict[tuple[str, str, int], int]) -> PeerLayer:
    form, count = form_of(parsed.lens), len(parsed.patches)
    k = max((len(found.candidates) for found in parsed.patches), default=0)
    which = np.full((count, k), -1, np.int32)
    scores = np.full((count, k), np.nan, np.float32)
    contexts = np.full((count, k), -1, np.int16) if parsed.lens == LATENT else None
    only = -1 if parsed.contextual_layer is None else parsed.contextual_layer
    for line, found in enumerate(parsed.patches):
        ranks = len(found.candidates)
        scores[line, :ranks] = numbers_of(found, form.score, file)
        if contexts is not None:
            contexts[line, :ranks] = whole_numbers_of(found, "contextual_layer", file, only, 2**15)
        for rank, candidate in enumerate(found.candidates):
            key = _key(parsed.lens, candidate, f"{file}: image {found.image}, patch {found.patch}")
            place = known.get(key)
            if place is None:
                place = known[key] = len(words)
                words.append(_word(parsed.lens, *key))
            which[line, rank] = place
    patches = np.array([(one.image, one.chunk, one.row, one.col) for one in parsed.patches], np.int32).reshape(-1, 4)
    places, often = np.unique(patches, axis=0, return_counts=True)
    if (often > 1).any():
        image, chunk, row, col = places[often > 1][0].tolist()
        raise InputError(f"{file}: image {image}, chunk {chunk}: two patches at row {row}, column {col}")
    return PeerLayer(patches, which, scores, contexts)


def _key(lens: str, candidate: dict[str, Any], where: str) -> tuple[str, str, int]:
    if lens != LATENT:
        return text_of(candidate, "token", where), "", -1
    position = whole_number(candidate, "position", where, 2**31) if candidate.get("position", -1) != -1 else -1
    return text_of(candidate, "token_str", where), text_of(candidate, "caption", where), position


def _word(lens: str, token: str, sentence: str, position: int) -> Word:
    text = token_word(token)
    if lens != LATENT or not text or text not in sentence:
        return Word(text or token, token, sentence)
    start = _place(text, sentence, position)
    return Word(whole_word(sentence, start, start + len(text)) or text, token, sentence, start, start + len(text))


def _place(text: str, sentence: str, position: int) -> int:
    """Character offset of a token whose position in the files is a token number.

    If its text occurs several times, the occurrence with the closest number of words before it is taken.
    """
    starts, at = [], sentence.find(text)
    while at >= 0:
        starts.append(at)
        at = sentence.find(text, at + 1)
    return min(starts, key=lambda start: abs(len(sentence[:start].split()) - position))
