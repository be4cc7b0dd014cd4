"""The viewer: static pages that show, for every patch of an image, what each lens says at each layer.

It opens from the disk without a server or a network. Every text goes through Jinja's escaping or reaches the page as
textContent, so a hostile word of a corpus stays a word.

    viewer/index.html  viewer.css  viewer.js  images/<sha256>.<ending>
    viewer/<run>/000012.html  000012.js         the page of image 12 and its data
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2

from lenscore.reports.page_data import PageData, script_bytes, verdict_lines
from lenscore.reports.pictures import copy_picture
from lenscore.reports.rates import headline_sentence
from lenscore.reports.sources import AnalyzeSource, JudgeSource
from lenscore.reports.summary import cells, headings

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("lenscore.reports"), autoescape=True, undefined=jinja2.StrictUndefined
)
_IMAGES_AT_ONCE = 32
_PIXELATED_UP_TO = 256


def write_viewer(folder: Path, runs: Sequence[AnalyzeSource], max_images: int) -> Path:
    """Write the viewer into a new folder and return its index.html.

    At most ``max_images`` images of each run get a page: judged ones first, then in the order of the run.
    """
    folder.mkdir(parents=True)
    for name in ("viewer.css", "viewer.js"):
        source, _, _ = _TEMPLATES.loader.get_source(_TEMPLATES, name)  # type: ignore[union-attr]
        (folder / name).write_text(source, encoding="utf-8")
    page = _TEMPLATES.get_template("index.html").render(
        title="What the lenses see",
        tables=[_headline(run, judge) for run in runs for judge in run.judges],
        galleries=[_write_gallery(folder, run, max_images) for run in runs],
    )
    index = folder / "index.html"
    index.write_text(page, encoding="utf-8")
    return index


def _headline(run: AnalyzeSource, judge: JudgeSource) -> dict[str, Any]:
    summary = judge.summary
    rows = []
    for layer in summary.layers:
        shown = [
            {"rate": rate.percent, "interval": rate.interval, "best": best} for rate, best in cells(summary, layer)
        ]
        rows.append({"layer": layer, "cells": shown})
    return {
        "model": summary.model,
        "sentence": headline_sentence(run, judge),
        "columns": headings(summary),
        "rows": rows,
    }


def _write_gallery(folder: Path, run: AnalyzeSource, max_images: int) -> dict[str, Any]:
    slug = run.results.run.run_id
    pages = folder / slug
    pages.mkdir()
    images = run.results.images().to_pylist()
    names = _names(images)
    errors = dict(zip(*(run.results.geometry().select(["image_id", "error"]).to_pydict().values()), strict=True))
    readable = [image["image_id"] for image in images if errors[image["image_id"]] is None]
    shown = _chosen(readable, run.judges, max_images)
    links = [f"{image_id:06d}.html" for image_id in shown]
    gone, entries = 0, []
    for place, (image, geometry, data) in enumerate(_pages(run, shown)):
        image_id = image["image_id"]
        picture = copy_picture(Path(image["path"]), image["sha256"], folder / "images")
        gone += picture is None
        script = pages / f"{image_id:06d}.js"
        script.write_bytes(script_bytes(data))
        page = _TEMPLATES.get_template("image.html").render(
            name=names[image_id],
            model=run.label,
            caption=image["caption"],
            image=f"../images/{picture.image}" if picture else None,
            width=geometry["width"],
            height=geometry["height"],
            pixelated=max(geometry["width"], geometry["height"]) <= _PIXELATED_UP_TO,
            judged=bool(data["verdicts"]),
            data=script.name,
            previous=links[place - 1] if place else None,
            next=links[place + 1] if place + 1 < len(links) else None,
        )
        (pages / links[place]).write_text(page, encoding="utf-8")
        entries.append(
            {
                "page": f"{slug}/{links[place]}",
                "thumbnail": f"images/{picture.thumbnail}" if picture else None,
                "name": names[image_id],
            }
        )
    return {
        "model": run.label,
        "sentence": _gallery_sentence(run, len(shown), len(readable), gone),
        "images": entries,
        "unreadable": [
            {"name": names[image_id], "error": error} for image_id, error in sorted(errors.items()) if error is not None
        ],
    }


def _pages(run: AnalyzeSource, image_ids: list[int]) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Image, geometry and page data of the images, in their order, reading the results of some at a time."""
    images = {image["image_id"]: image for image in run.results.images().to_pylist()}
    maker = PageData(run.results)
    verdicts = [verdict_lines(judge.verdicts, judge.summary.judge) for judge in run.judges]
    for first in range(0, len(image_ids), _IMAGES_AT_ONCE):
        some = image_ids[first : first + _IMAGES_AT_ONCE]
        geometry = {line["image_id"]: line for line in run.results.geometry(image_ids=some).to_pylist()}
        table = run.results.results(image_ids=some).sort_by("image_id")
        column = table["image_id"].to_numpy()
        for image_id in some:
            begin, end = column.searchsorted([image_id, image_id + 1])
            lines = [line for by_image in verdicts for line in by_image.get(image_id, [])]
            tops = table.slice(begin, end - begin)
            yield images[image_id], geometry[image_id], maker.of(images[image_id], geometry[image_id], tops, lines)


def _chosen(readable: list[int], judges: Sequence[JudgeSource], max_images: int) -> list[int]:
    judged = {int(image_id) for judge in judges for image_id in judge.verdicts["image_id"].unique()}
    by_interest = sorted(readable, key=lambda image_id: (image_id not in judged, image_id))
    return sorted(by_interest[:max_images])


def _gallery_sentence(run: AnalyzeSource, shown: int, readable: int, gone: int) -> str:
    layers = ", ".join(map(str, run.results.layers))
    sentence = f"{shown} images" if shown == readable else f"{shown} of {readable} images, judged ones first"
    sentence += f"; visual layers {layers}; the {run.results.top_k} best words of each lens."
    return sentence + (f" {gone} image files are gone or were changed since." if gone else "")


def _names(images: list[dict[str, Any]]) -> dict[int, str]:
    """How images are called: the shortest end of the path that no other image has, at most three folders."""
    paths = {image["image_id"]: Path(image["path"]).parts for image in images}
    for length in (1, 2, 3, 4):
        names = {image_id: "/".join(parts[-length:]) for image_id, parts in paths.items()}
        if len(set(names.values())) == len(names):
            break
    return names
