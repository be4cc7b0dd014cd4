"""Every published layout of result files is read, and what is odd in one is one line that names the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage_layouts.errors import InputError
from storage_layouts.latentlens_results import ResultsFile, parse_file, result_files
from storage_layouts.single_image import parse_files
from tests import published_files as published

PLACES = [(image, 0, row, col) for image in (0, 1) for row in (0, 1) for col in (0, 1, 2)]
WRITERS = {
    "latent": published.latent,
    "latent off the shelf": published.latent_off_the_shelf,
    "latent off the shelf, layer": lambda folder, layer: published.latent_off_the_shelf(folder, layer, "layer"),
    "logit": published.logit,
    "logit off the shelf": published.logit_off_the_shelf,
    "embedding": published.embedding,
    "embedding off the shelf": published.embedding_off_the_shelf,
    "patchscopes": published.patchscopes,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_layout_of_a_lens_and_layer_is_read(tmp_path: Path, name: str) -> None:
    file = WRITERS[name](tmp_path, 16)
    assert result_files(tmp_path) == result_files(file) == [file]
    parsed = parse_file(file)
    assert (parsed.lens, parsed.layer, parsed.contextual_layer) == (name.split()[0], 16, None)
    assert parsed.checkpoint == (published.MODEL if "off the shelf" in name else published.CHECKPOINT)
    assert parsed.captions == {0: "caption 0", 1: "caption 1"}
    assert parsed.chunks == {0: "Full Image"}
    assert [(one.image, one.chunk, one.row, one.col) for one in parsed.patches] == PLACES
    texts = [[one.get("token") or one["caption"] for one in patch.candidates] for patch in parsed.patches]
    assert texts[4] == (["a Cat at 1-1"] * 2 if parsed.lens == "latent" else ["1-1", " dog"])


def test_the_folder_tells_a_tuned_lens_from_the_logit_lens(tmp_path: Path) -> None:
    for folder, lens in (
        ("analysis_results/tuned_lens/olmo", "tuned"),
        ("TunedLens", "tuned"),
        ("tuned-lens-paper/logit_lens/olmo", "logit"),
        ("logitlens/tuned lens", "tuned"),
        ("olmo", "logit"),
    ):
        assert parse_file(published.logit(tmp_path / folder, 8)).lens == lens


def test_a_file_of_one_image_is_read_for_each_model_lens_and_layer(tmp_path: Path) -> None:
    parsed = parse_files(published.single_image(tmp_path, "/data/photo.jpg"))
    assert [(one.checkpoint, one.lens, one.layer) for one in parsed] == [
        *(("OLMo-7B + CLIP", lens, layer) for lens in ("latent", "logit") for layer in (0, 16)),
        *(("LLaMA3-8B + CLIP", "latent", layer) for layer in (0, 16)),
        ("LLaMA3-8B + CLIP", "logit", 0),
    ]
    assert {one.image_path for one in parsed} == {"/data/photo.jpg"}
    for one in parsed:
        assert one.chunks == {0: "Full Image", 1: "Chunk 1"}
        places = [(0, chunk, row, col) for chunk in (0, 1) for row in (0, 1) for col in (0, 1, 2)]
        assert [(found.image, found.chunk, found.row, found.col) for found in one.patches] == places
        last = one.patches[-1].candidates[0]
        assert last.get("caption") == "a Cat at Chunk 1 1-2" or last["token"] == "1/5"


def changed(file: Path, change: Callable[[Any], object]) -> Path:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


def first(content: Any) -> Any:
    return content["results"][0]["chunks"][0]["patches"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(layer_idx=True), "layer_idx: found True, expected a whole number"),
        (lambda c: c.update(layer_idx=-1), "layer_idx: found -1, expected a whole number"),
        (lambda c: c.update(layer_idx=10**9), "layer_idx: found 1000000000, expected a whole number"),
        (lambda c: c.pop("layer_idx"), "none of the fields visual_layer, layer_idx, llm_layer, layer"),
        (lambda c: c.update(results=3), "results: found 3, expected a list"),
        (lambda c: c.update(checkpoint=["x"]), "checkpoint: found ['x'], expected text"),
        (lambda c: c["results"][0].update(image_idx="0"), "results[0]: image_idx: found '0', expected a whole number"),
        (lambda c: c["results"][1].update(image_idx=0), "results[1]: image_idx 0 occurs twice"),
        (lambda c: c["results"][0].update(ground_truth_caption=5), "ground_truth_caption: found 5, expected text"),
        (lambda c: c["results"][0].update(chunks={}), "chunks: found {}, expected a list"),
        (lambda c: first(c).update(patch_row=1.5), "image 0, patch 0: patch_row: found 1.5, expected a whole number"),
        (lambda c: first(c).update(patch_col=None), "image 0, patch 0: patch_col: found nothing"),
        (lambda c: c["results"][1]["chunks"][0]["patches"][2].pop("top_predictions"), "image 1, patch 2: not"),
        (lambda c: first(c).update(top_predictions=["cat"]), "top_predictions: expected objects"),
        (lambda c: first(c).pop("top_predictions"), "its patches hold none of nearest_contextual_neighbors, top_pred"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_odd_content_is_one_line_that_names_the_place(
    tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    file = changed(published.logit(tmp_path, 0), change)
    with pytest.raises(InputError) as refused:
        parse_file(file)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(models=[]), "models: expected an object with a model for each name"),
        (lambda c: c["models"]["OLMo-7B + CLIP"].update(results_by_layer=[1]), "OLMo-7B + CLIP: results_by_layer: exp"),
        (lambda c: c["models"]["OLMo-7B + CLIP"]["results_by_layer"].update(x={}), "results_by_layer: expected an obj"),
        (lambda c: c["models"]["OLMo-7B + CLIP"]["results_by_layer"].update({"0": 1}), "layer 0: expected {llm_layer"),
        (lambda c: c["models"]["OLMo-7B + CLIP"]["logitlens_by_layer"]["0"].pop(), "found 11 patches, expected the"),
        (lambda c: c.update(image_path=1), "image_path: found 1, expected text"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_odd_content_of_a_single_image_is_one_line(
    tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    file = changed(published.single_image(tmp_path, "x.jpg"), change)
    with pytest.raises(InputError) as refused:
        parse_files(file)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)


def test_files_that_are_no_json_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "logit_lens_layer0_topk5.json"
    for text in ("", "{", "[" * 100_000, "[]", "\x00"):
        file.write_text(text)
        with pytest.raises(InputError, match="^" + str(file)):
            parse_file(file)
    assert isinstance(parse_file(published.logit(tmp_path, 1)), ResultsFile)
