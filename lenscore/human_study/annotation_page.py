"""The page on which people answer what a judge is asked: one file, no server, no network.

    DIR/index.html     the page, with the pictures and words in it
    DIR/data.json      the same instances in the format of the published human study, with where they come from
    DIR/results/       for the files that the page exports

Who answers does not learn which lens, layer or model said the words: instances have opaque names and stand in the
order of these.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from lenscore.human_study.study_files import DATA
from lenscore.judging.candidates import CandidateWords
from lenscore.judging.patches import ImagePatches, PatchRef, readable_images
from lenscore.judging.questions import QuestionSettings, ask
from lenscore.readings.page_json import script_json
from storage_layouts.errors import InputError
from storage_layouts.files import make_folder, require_own_folder, write_atomic
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("lenscore.human_study"), autoescape=True, undefined=jinja2.StrictUndefined
)
_PLACE = ["image_id", "view", "row", "col"]


@dataclass(frozen=True)
class Cell:
    """What one lens says of one patch at one layer, best word first."""

    place: PatchRef
    layer: int
    lens: str
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class StudyFiles:
    """What was written: the page, how many questions are on it, and how many cells had no word to ask about."""

    page: Path
    questions: int
    wordless: int


def sampled_cells(
    results: LensResults,
    sample: Sequence[PatchRef],
    seed: int,
    lenses: Sequence[str],
    layers: Sequence[int],
    describe: Literal["word", "phrase"],
    k: int,
) -> list[Cell]:
    """Each patch of a sample with one layer and lens drawn for it by hash, and the ``k`` best words of these."""
    cells = [(layer, lens) for layer in layers for lens in lenses]
    drawn = [min(cells, key=lambda cell: _hash(seed, place.sha256, *place.key[1:], *cell)) for place in sample]
    words = CandidateWords(results, describe)
    table = results.results(image_ids={place.image_id for place in sample})
    asked = pd.DataFrame(
        [(*place.key, *cell, n) for n, (place, cell) in enumerate(zip(sample, drawn, strict=True))],
        columns=[*_PLACE, "layer", "lens", "n"],
    )
    lines = table.select([*_PLACE, "layer", "lens"]).to_pandas().reset_index(names="line")
    found = asked.merge(lines, on=[*_PLACE, "layer", "lens"], validate="one_to_one").sort_values("n")
    if len(found) != len(sample):
        raise ValueError(f"{results.path}: {len(found)} results for {len(sample)} patches")
    ids = table["ids"].take(found["line"].to_numpy()).to_pylist()
    return [
        Cell(place, *cell, words.of(cell[1], np.array(top[:k], np.int32)))
        for place, cell, top in zip(sample, drawn, ids, strict=True)
    ]


def judged_cells(
    run: RunFolder, results: LensResults, patches: int, seed: int, lenses: Sequence[str], layers: Sequence[int]
) -> list[Cell]:
    """The same, of a judge run: its patches in its order, with the very words that it judged."""
    verdicts = read_verdicts(run)
    own = verdicts[(verdicts["control"] == "") & verdicts["lens"].isin(lenses) & verdicts["layer"].isin(layers)]
    own = own.drop_duplicates([*_PLACE, "layer", "lens"])
    places = {
        place.key: place for image in readable_images(results.images(), results.geometry()) for place in image.places
    }
    by_place: dict[tuple[int, int, int, int], list[dict[Any, Any]]] = {}
    for line in own.to_dict("records"):
        by_place.setdefault((line["image_id"], line["view"], line["row"], line["col"]), []).append(line)
    cells = []
    for key, lines in list(by_place.items())[:patches]:
        place = places[key]
        line = min(lines, key=lambda one: _hash(seed, place.sha256, *key[1:], one["layer"], one["lens"]))
        cells.append(Cell(place, line["layer"], line["lens"], tuple(line["candidates"])))
    return cells


def write_study(out: Path, results: LensResults, cells: Iterable[Cell], settings: QuestionSettings) -> StudyFiles:
    """Write the page and data.json into a folder. InputError if there is nothing to ask or a study is there already."""
    if (out / DATA).exists():
        raise InputError(f"{out}: there is already a study; answers belong to its instances, so choose another folder")
    require_own_folder(out, "index.html", "results")
    images = {image.image_id: image for image in readable_images(results.images(), results.geometry())}
    names = dict(zip(*results.images().select(["image_id", "path"]).to_pydict().values(), strict=True))
    entries, questions, wordless = [], [], 0
    for cell in cells:
        candidates = tuple(dict.fromkeys(cell.candidates))
        if not candidates:
            wordless += 1
            continue
        entry = _entry(results, cell, candidates, Path(names[cell.place.image_id]).name)
        entries.append(entry)
        questions.append((entry["id"], candidates, cell.place))
    if not questions:
        raise InputError(f"{results.path}: no patch with candidate words to ask about")
    entries.sort(key=lambda entry: entry["id"])
    shown = [
        _shown(name, candidates, images[place.image_id], place, settings)
        for name, candidates, place in sorted(questions, key=lambda question: question[0])
    ]
    content = json.dumps(entries, ensure_ascii=False, indent=1).encode()
    study = {"id": hashlib.sha256(content).hexdigest()[:16], "questions": shown}
    page = _TEMPLATES.get_template("annotate.html").render(title="Which words fit?", study=script_json(study))
    make_folder(out / "results")
    write_atomic(out / "index.html", page.encode())
    write_atomic(out / DATA, content)
    return StudyFiles(out / "index.html", len(shown), wordless)


def _entry(results: LensResults, cell: Cell, candidates: tuple[str, ...], image: str) -> dict[str, Any]:
    place = cell.place
    where = (results.run.run_id, place.sha256, *place.key, cell.layer, cell.lens, candidates)
    return {
        "id": _hash(*where)[:16],
        "image_url": image,
        "candidates": list(candidates),
        "patch_row": place.row,
        "patch_col": place.col,
        "model": results.model,
        "layer": cell.layer,
        "lens": cell.lens,
        "view": place.view,
        "image_id": place.image_id,
        "image_sha256": place.sha256,
        "box": list(place.box),
        "run": results.run.run_id,
    }


def _shown(
    name: str, candidates: tuple[str, ...], image: ImagePatches, place: PatchRef, settings: QuestionSettings
) -> dict[str, Any]:
    picture, close = (_jpeg_url(png) for png in ask(image, place, candidates, settings).images)
    return {"id": name, "candidates": list(candidates), "picture": picture, "close": close}


def _jpeg_url(png: bytes) -> str:
    """The picture as a data URL: as JPEG, for a page holds hundreds of them."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(["lenscore.annotate", *parts]).encode()).hexdigest()
