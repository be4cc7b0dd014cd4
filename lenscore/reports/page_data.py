"""What the page of one image knows: patches, words, scores, truth and verdicts, as compact plain values.

The page's script (templates/viewer.js) reads them. Words and sentences stand once in a list per lens and are
named by their place in it. Sentences are cut around the token here, because Python and JavaScript count the
characters of a text differently.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lenscore.judging.candidates import LATENT, StoreWords, token_word
from lenscore.reports.summary import TITLES
from lenscore.script_json import script_json
from lenscore.shapes import patch_truth, read_scene
from storage_layouts.results import LensResults

_UNITS = {
    LATENT: "nearest word in context · cosine",
    "embedding": "nearest input embedding · cosine",
    "logit": "likeliest next token · logit",
}


class PageData:
    """Makes the data of any image of a LensResults folder."""

    def __init__(self, results: LensResults) -> None:
        self._results = results
        self._tokens = results.token_words()
        store = results.store() if LATENT in results.lenses else None
        self._rows = StoreWords(store) if store is not None else None
        self._entry_of_row = lru_cache(maxsize=1 << 18)(self._row_entry)

    def of(
        self, image: dict[str, Any], geometry: dict[str, Any], tops: pa.Table, verdicts: Iterable[list[Any]]
    ) -> dict[str, Any]:
        """The data of one image.

        ``image`` and ``geometry`` are its lines of images.parquet and of the geometry parts, ``tops`` all its
        lines of the results, ``verdicts`` its lines (judge, patch place (view, row, col), layer, lens, outcome,
        fitting words).
        """
        patches = geometry["patches"]
        place = {(patch["view"], patch["row"], patch["col"]): index for index, patch in enumerate(patches)}
        return {
            "views": [{"view": view["view"], "name": view["name"]} for view in geometry["views"]],
            "patches": [
                [patch["view"], patch["row"], patch["col"], *(round(edge, 6) for edge in _box(patch))]
                for patch in patches
            ],
            "layers": list(self._results.layers),
            "topK": self._results.top_k,
            "lenses": [self._lens(lens, tops, place) for lens in self._results.lenses],
            "truth": truth_of(Path(image["path"]), [_box(patch) for patch in patches]),
            "verdicts": [
                [judge, place[where], layer, lens, outcome, list(fitting)]
                for judge, where, layer, lens, outcome, fitting in verdicts
            ],
        }

    def _lens(self, lens: str, tops: pa.Table, place: dict[tuple[int, int, int], int]) -> dict[str, Any]:
        mine = tops.filter(pc.equal(tops["lens"].cast(pa.string()), lens))
        where = np.array(
            [place[key] for key in zip(*(mine[c].to_pylist() for c in ("view", "row", "col")), strict=True)]
        )
        layers = mine["layer"].to_numpy()
        columns = {name: _matrix(mine[name]) for name in ("ids", "scores", "contextual_layers")}
        by_layer = []
        for layer in self._results.layers:
            chosen = np.flatnonzero(layers == layer)
            chosen = chosen[np.argsort(where[chosen], kind="stable")]
            if not np.array_equal(where[chosen], np.arange(len(place))):
                raise ValueError(f"{self._results.run.path}: {lens} at layer {layer} does not name every patch once")
            by_layer.append({name: values[chosen].ravel() for name, values in columns.items()})
        known, ids = np.unique(np.concatenate([layer["ids"] for layer in by_layer]), return_inverse=True)
        data: dict[str, Any] = {
            "name": lens,
            "title": TITLES.get(lens, lens),
            "unit": _UNITS.get(lens, "score"),
            "items": [self._entry(lens, int(key)) for key in known],
            "ids": [part.tolist() for part in np.split(ids, len(by_layer))],
            "scores": [[float(f"{score:.4g}") for score in layer["scores"].tolist()] for layer in by_layer],
        }
        if lens == LATENT:
            data["contexts"] = [layer["contextual_layers"].tolist() for layer in by_layer]
        return data

    def _entry(self, lens: str, key: int) -> dict[str, str]:
        if lens == LATENT:
            return self._entry_of_row(key)
        token = self._tokens[key]
        return {"word": visible(token_word(token) or token)}

    def _row_entry(self, row: int) -> dict[str, str]:
        assert self._rows is not None
        text, start, end = self._rows.place(row)
        blanks = len(text[start:end]) - len(text[start:end].lstrip())
        if blanks < end - start:  # many tokenizers count the space before a word as a part of it
            start += blanks
        return {
            "word": visible(self._rows.word(row)),
            "before": text[:start],
            "mark": visible(text[start:end]),
            "after": text[end:],
        }


def truth_of(path: Path, boxes: list[tuple[float, float, float, float]]) -> dict[str, Any] | None:
    """What is on every patch, if the image carries a scene of the shapes world; None otherwise.

    ``things`` are the different answers, ``patches`` one (place in things, share) a box.
    """
    try:
        scene = read_scene(path)
    except (ValueError, OSError):
        return None
    things: dict[tuple[str, tuple[tuple[str, frozenset[str]], ...]], int] = {}
    patches = []
    thing: tuple[str, tuple[tuple[str, frozenset[str]], ...]]
    for left, top, right, bottom in boxes:
        if right > left and bottom > top:
            truth = patch_truth(scene, (left, top, right, bottom))
            thing, share = (truth.kind, tuple(truth.aspects.items())), truth.share
        else:
            thing, share = ("padding", ()), 1.0
        patches.append([things.setdefault(thing, len(things)), round(share, 3)])
    described = [
        {"kind": kind, "aspects": [[name, sorted(words)] for name, words in aspects if words]}
        for kind, aspects in things
    ]
    return {"things": described, "patches": patches}


def verdict_lines(frame: pd.DataFrame, judge: str) -> dict[int, list[list[Any]]]:
    """The verdicts on the lenses' own words, by image, as ``PageData.of`` takes them."""
    own = frame[frame["control"] == ""]
    lines: dict[int, list[list[Any]]] = {}
    columns = ["image_id", "view", "row", "col", "layer", "lens", "outcome", "fitting"]
    for image_id, view, row, col, layer, lens, outcome, fitting in own[columns].itertuples(index=False):
        line = [judge, (view, row, col), layer, lens, outcome, fitting]
        lines.setdefault(int(image_id), []).append(line)
    return lines


def script_bytes(data: dict[str, Any]) -> bytes:
    """The data as a script that sets ``window.lensPage``; see `script_json`."""
    return f"window.lensPage={script_json(data)};\n".encode()


def visible(text: str) -> str:
    """A text whose blanks can be seen, for tokens that are nothing else."""
    if text.strip():
        return text
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(character, repr(character)[1:-1]) for character in text) or "(empty)"


def _box(patch: dict[str, float]) -> tuple[float, float, float, float]:
    return patch["left"], patch["top"], patch["right"], patch["bottom"]


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column of lists of k as an array ``[lines, k]``."""
    values: npt.NDArray[Any] = column.combine_chunks().flatten().to_numpy()
    return values.reshape(len(column), -1)
