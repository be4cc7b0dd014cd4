"""The annotation page: one HTML file with the questions of a judge for people, without a server or network.

    DIR/index.html     the page, with its pictures and words
    DIR/data.json      the same instances in the format of the published human study, with their origin
    DIR/results/       for the files that the page exports

Annotators are blind to the lens, layer and model: instances have opaque ids and are sorted by these.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
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
from lenscore.statistics.sources import image_column
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
    """The candidates of one lens for one patch at one layer, best first."""

    place: PatchRef
    layer: int
    lens: str
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class StudyFiles:
    """The written page, the number of its questions, and the number of cells without a word."""

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
    """The ``k`` best words of one layer and lens for each patch of a sample; a hash chooses layer and lens.

    Args:
        results: the analyze run.
        sample: the patches.
        seed: of the hash.
        lenses: to choose from.
        layers: to choose from.
        describe: how candidates of LatentLens are given, see `QuestionSettings`.
        k: number of words.

    """
    cells = [(layer, lens) for layer in layers for lens in lenses]
    drawn = [min(cells, key=lambda cell: _hash(seed, place.sha256, *place.key[1:], *cell)) for place in sample]
    words = CandidateWords(results, describe)
    table = results.results(columns=[*_PLACE, "layer", "lens", "ids"], patches={place.key for place in sample})
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
    """The same for the first patches of a judge run, with the words that it judged."""
    verdicts = read_verdicts(run)
    own = verdicts[(verdicts["control"] == "") & verdicts["lens"].isin(lenses) & verdicts["layer"].isin(layers)]
    own = own.drop_duplicates([*_PLACE, "layer", "lens"])
    places = {
        place.key: place for image in readable_images(results.images(), results.geometry()) for place in image.places
    }
    cells = []
    for _, lines in islice(own.groupby(_PLACE, sort=False), patches):
        place = places[tuple(lines[_PLACE].iloc[0])]
        line = min(
            lines.to_dict("records"),
            key=lambda one: _hash(seed, place.sha256, *place.key[1:], one["layer"], one["lens"]),
        )
        cells.append(Cell(place, line["layer"], line["lens"], tuple(line["candidates"])))
    return cells


def write_study(out: Path, results: LensResults, cells: Sequence[Cell], settings: QuestionSettings) -> StudyFiles:
    """Write the page and data.json into a folder. Raises InputError if no cell has words or the folder has a study."""
    if (out / DATA).exists():
        raise InputError(f"{out}: there is already a study; answers belong to its instances, so choose another folder")
    require_own_folder(out, "index.html", "results")
    images = {image.image_id: image for image in readable_images(results.images(), results.geometry())}
    names = image_column(results, "path")
    asked = [
        (_entry(results, cell, Path(names[cell.place.image_id]).name), cell.place) for cell in cells if cell.candidates
    ]
    if not asked:
        raise InputError(f"{results.path}: no patch with candidate words to ask about")
    asked.sort(key=lambda one: one[0]["id"])
    shown = [_shown(entry, images[place.image_id], place, settings) for entry, place in asked]
    content = json.dumps([entry for entry, _ in asked], ensure_ascii=False, indent=1).encode()
    study = {"id": hashlib.sha256(content).hexdigest()[:16], "questions": shown}
    page = _TEMPLATES.get_template("annotate.html").render(title="Which words fit?", study=script_json(study))
    make_folder(out / "results")
    write_atomic(out / "index.html", page.encode())
    write_atomic(out / DATA, content)
    return StudyFiles(out / "index.html", len(shown), len(cells) - len(shown))


def _entry(results: LensResults, cell: Cell, image: str) -> dict[str, Any]:
    place, candidates = cell.place, list(dict.fromkeys(cell.candidates))
    where = (results.run.run_id, place.sha256, *place.key, cell.layer, cell.lens, candidates)
    return {
        "id": _hash(*where)[:16],
        "image_url": image,
        "candidates": candidates,
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


def _shown(entry: dict[str, Any], image: ImagePatches, place: PatchRef, settings: QuestionSettings) -> dict[str, Any]:
    picture, close = (_jpeg_url(one.png) for one in ask(image, place, tuple(entry["candidates"]), settings).images)
    return {"id": entry["id"], "candidates": entry["candidates"], "picture": picture, "close": close}


def _jpeg_url(png: bytes) -> str:
    """A picture as the data URL of a JPEG, which is smaller: a page has hundreds of pictures."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(["lenscore.annotate", *parts]).encode()).hexdigest()
