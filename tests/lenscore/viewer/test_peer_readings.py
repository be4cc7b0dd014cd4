"""Result files of the paper's scripts in the viewer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lenscore.reports.writing import write_report
from lenscore.viewer.peer_readings import peer_models
from lenscore.viewer.readings import RunReadings
from storage_layouts.errors import InputError
from storage_layouts.results_conversion import results_to_json
from tests import published_files as published
from tests.viewer_pages import Site


def test_files_of_latentlens_are_shown_as_the_run_that_they_came_from(judged, tmp_path: Path) -> None:
    results = judged[0]
    results_to_json(results, tmp_path / "json")
    (model,) = peer_models([tmp_path / "json"], None)
    ours = dict(RunReadings(results).readings(range(12)))
    theirs = dict(model.readings.readings(model.readings.image_ids))
    assert list(theirs) == list(ours)
    for image_id, mine in ours.items():
        other = theirs[image_id]
        assert (other.name, other.caption, other.layers) == (mine.name, mine.caption, mine.layers)
        assert (other.width, other.picture, other.views) == (mine.width, mine.picture, mine.views)
        assert np.array_equal(other.boxes, mine.boxes)
        assert [thing.kind for thing in other.truth.things] == [thing.kind for thing in mine.truth.things]
        for lens, same in zip(other.lenses, mine.lenses, strict=True):
            assert lens.lens == same.lens
            assert np.array_equal(lens.scores, same.scores)
            texts = [np.array([word.text for word in one.words])[one.which] for one in (lens, same)]
            if lens.lens != "latent":  # a token of the store is "t" in this run, which no sentence marks
                assert np.array_equal(*texts)
            else:
                assert np.array_equal(lens.contextual_layers, same.contextual_layers)
                sentences = [np.array([word.sentence for word in one.words])[one.which] for one in (lens, same)]
                assert np.array_equal(*sentences)


def peer_file(folder: Path, layer: int, patches: int = 2, images: int = 2) -> None:
    """A file of the paper's scripts with two chunks an image."""

    def candidates(image: int, row: int, col: int) -> list[dict[str, object]]:
        caption = "a cat sees a Cat and a catfish"
        found = {"token_str": " Cat", "token_id": 1, "caption": caption, "position": 5, "similarity": 0.5}
        return [found | {"contextual_layer": layer}, found | {"token_str": f"</script>{image}{row}{col}"}]

    def chunk(name: str, image: int, side: int) -> dict[str, object]:
        places = [divmod(i, side) for i in range(side * side)]
        cells = [{"patch_idx": i, "patch_row": row, "patch_col": col} for i, (row, col) in enumerate(places)]
        key = "nearest_contextual_neighbors"
        filled = [cell | {key: candidates(image, cell["patch_row"], cell["patch_col"])} for cell in cells]
        return {"chunk_name": name, "patches": filled}

    entries = [
        {
            "image_idx": image,
            "ground_truth_caption": f"caption {image}",
            "feature_shape": [1, 2, 4, 8],
            "chunks": [chunk("Full Image", image, patches), chunk("Chunk 1", image, patches)],
        }
        for image in range(images)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    content = {"checkpoint": "x/step1", "visual_layer": layer, "results": entries}
    (folder / f"contextual_neighbors_visual{layer}_allLayers.json").write_text(json.dumps(content))


def test_files_of_the_papers_scripts_say_what_was_assumed(browser, tmp_path: Path) -> None:
    for layer in (0, 4):
        peer_file(tmp_path / "olmo-clip", layer)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, size in (("a.png", (40, 20)), ("b <i>.png", (30, 30)), ("c.png", (10, 10))):
        Image.new("RGB", size, "red").save(pictures / name)
    report = write_report([tmp_path / "olmo-clip"], tmp_path / "out", peer_images=pictures)
    assert json.loads((report.folder / "report.json").read_text())["runs"][0]["latentlens"]
    page = next(report.viewer.parent.glob("olmo-clip-*/index.html"))
    site = Site(browser, page.as_uri())
    notes = " ".join(site.texts(".note"))
    assert "Cells of equal size over the whole image are assumed" in notes
    assert "each is drawn over the whole image" in notes
    assert "image 0 is a.png, image 1 is b <i>.png, and 1 files behind it are not used" in notes
    assert site.texts("#cards .name") == ["a.png", "b <i>.png"]
    assert site.texts("#cards .caption") == ["caption 0", "caption 1"]
    site.search("cat")
    assert site.counts() == {("latent", 0): 16, ("latent", 4): 16}
    site.search("</script>111")
    assert [link[:4] for link in site.links()] == [(1, 0, "0-1-1", "latent")]
    site.find("#found .gallery a")[0].click()
    site.wait(lambda: site.find("#lenses .word"))
    assert site.texts("#lenses .word") == ["Cat", "</script>111"]
    assert site.texts("#lenses mark")[:1] == ["Cat"]  # the one in the middle of the sentence
    site.assert_quiet()


def test_unusable_files_of_latentlens_are_refused_in_one_line(tmp_path: Path) -> None:
    peer_file(tmp_path / "one", 0)
    (tmp_path / "few").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "few" / "a.png")
    with pytest.raises(
        InputError, match=r"--peer-images: 1 images, but .*visual0.* refers to image 1 \(the first is 0\)"
    ):
        write_report([tmp_path / "one"], tmp_path / "out", peer_images=tmp_path / "few")
    with pytest.raises(InputError, match=r"--peer-images .*gone: no such file or folder"):
        write_report([tmp_path / "one"], tmp_path / "out", peer_images=tmp_path / "gone")
    with pytest.raises(InputError, match=r"--peer-images .*few: found none of the folders of latentlens result files"):
        write_report([], tmp_path / "out", peer_images=tmp_path / "few")
    peer_file(tmp_path / "one" / "again", 0)
    with pytest.raises(InputError, match=r"the lens latent at layer 0 of x/step1 is also in .*"):
        write_report([tmp_path / "one"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    bare = write_report([_renamed(tmp_path)], tmp_path / "out")
    assert "The files hold no images" in next(bare.viewer.parent.glob("two-*/index.html")).read_text()


def test_a_report_of_result_files_alone_says_what_is_missing(tmp_path: Path) -> None:
    peer_file(tmp_path / "one", 0)
    text = write_report([tmp_path / "one"], tmp_path / "out").report.read_text()
    assert "Nothing that these runs know of" not in text
    assert "- Result files, no run: shown in the viewer alone; rates, tables and figures are made of runs.\n" in text
    assert "- The files hold no images; --peer-images gives them.\n" in text
    assert re.search(r"\| result files [0-9a-f]{6} +\| one +\|", text)


def _renamed(folder: Path) -> Path:
    peer_file(folder / "two", 3)
    return folder / "two"


def test_files_of_all_published_layouts_are_shown(browser, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    for write in (published.latent, published.logit, published.embedding, published.patchscopes):
        write(theirs, 8)
    published.logit(theirs / "tuned_lens", 8)
    for write in (published.latent_off_the_shelf, published.logit_off_the_shelf, published.embedding_off_the_shelf):
        write(tmp_path / "shelf", 16)
    report = write_report([theirs, tmp_path / "shelf"], tmp_path / "out")
    site = Site(browser, report.viewer.as_uri())
    site.assert_quiet()
    for folder, lenses, note in (
        ("theirs", ["LatentLens", "LogitLens", "EmbeddingLens", "Tuned Lens", "Patchscopes"], "Tuned Lens: the files"),
        ("shelf", ["LatentLens", "LogitLens", "EmbeddingLens"], "Cells of equal size"),
    ):
        (page,) = report.viewer.parent.glob(f"{folder}-*/image.html")
        site = Site(browser, f"{page.as_uri()}#0/{8 if folder == 'theirs' else 16}/0-1-2")
        site.wait(lambda site=site: site.find("#lenses .word"))
        assert site.texts("#lenses h2") == lenses
        assert site.texts("#lenses .word")[0] == "Cat"
        site.assert_quiet()
        assert note in (page.parent / "index.html").read_text()


def test_files_of_one_contextual_layer_are_merged_by_similarity(tmp_path: Path) -> None:
    for contextual, similarities in ((1, (0.9, 0.2)), (8, (0.8, 0.7)), (24, (0.1,))):
        published.latent_of_one_layer(tmp_path / "each", 0, contextual, similarities)
    published.latent_of_one_layer(tmp_path / "each", 4, 8, (0.5,))  # no other layer was searched here
    (model,) = peer_models([tmp_path / "each"], None)
    assert "Files of one contextual layer each (1, 8, 24) were merged by similarity" in " ".join(model.notes)
    assert model.readings.layers == (0, 4)
    for image_id, reading in model.readings.readings(model.readings.image_ids):
        (lens,) = reading.lenses
        assert reading.caption == f"caption {image_id}"
        assert np.array_equal(lens.scores[0], np.tile(np.float32([0.9, 0.8]), (6, 1)))
        assert np.array_equal(lens.contextual_layers[0], np.tile(np.int16([1, 8]), (6, 1)))
        assert np.array_equal(lens.contextual_layers[1], np.tile(np.int16([8, -1]), (6, 1)))
        said = [[lens.words[place].sentence for place in line] for line in lens.which[0]]
        assert said == [[f"a Cat at {row}-{col}"] * 2 for row in range(2) for col in range(3)]


def test_files_of_one_contextual_layer_without_chunks_are_merged_too(tmp_path: Path) -> None:
    for contextual in (8, 2, 4):
        published.latent_of_one_layer_off_the_shelf(tmp_path / "qwen", 16, contextual)
    (model,) = peer_models([tmp_path / "qwen"], None)
    for _, reading in model.readings.readings(model.readings.image_ids):
        assert np.array_equal(reading.lenses[0].scores[0], np.full((6, 1), 0.5))
        assert np.array_equal(reading.lenses[0].contextual_layers[0], np.full((6, 1), 2))


@pytest.mark.parametrize("again", [1, None])
def test_one_contextual_layer_twice_is_refused(tmp_path: Path, again: int | None) -> None:
    published.latent_of_one_layer(tmp_path / "x" / "a", 0, 1, (0.9,))
    if again:
        published.latent_of_one_layer(tmp_path / "x" / "b", 0, again, (0.8,))
    else:
        published.latent(tmp_path / "x" / "b", 0)
    with pytest.raises(
        InputError, match=r"the lens latent at layer 0.* is also in .*; name folders that hold each once"
    ):
        peer_models([tmp_path / "x"], None)


def test_other_patches_at_another_contextual_layer_are_refused(tmp_path: Path) -> None:
    published.latent_of_one_layer(tmp_path / "x", 0, 1, (0.9,))
    file = published.latent_of_one_layer(tmp_path / "x", 0, 8, (0.8,))
    content = json.loads(file.read_text())
    content["results"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="have the same visual layer, but not the same patches; they cannot be merged"):
        peer_models([tmp_path / "x"], None)


def test_a_file_of_one_image_shows_its_models_with_the_picture_beside_it(tmp_path: Path) -> None:
    file = published.single_image(tmp_path / "demo", "/nowhere/photo.jpg")
    Image.new("RGB", (30, 20), "red").save(tmp_path / "demo" / "image.jpg")
    for given in (tmp_path / "demo", file):
        models = peer_models([given], None)
        assert [model.label for model in models] == [f"{given.name} {n} + CLIP" for n in ("OLMo-7B", "LLaMA3-8B")]
        for model in models:
            ((_, reading),) = model.readings.readings([0])
            assert (reading.width, reading.height, reading.name) == (30, 20, "image.jpg")
            assert [lens.lens for lens in reading.lenses] == ["latent", "logit"]
            assert f"The image is {tmp_path / 'demo' / 'image.jpg'}" in " ".join(model.notes)
        assert np.isnan(reading.lenses[1].scores[1]).all()  # the logit lens was left out at layer 16
    write_report([file], tmp_path / "out", peer_images=tmp_path / "demo")


def test_a_candidate_that_is_no_number_names_image_and_patch(tmp_path: Path) -> None:
    for value, message in (
        ("NaN", "similarity is nan"),
        ("null", "has no number 'similarity'"),
        ("true", "has no num"),
    ):
        file = published.latent(tmp_path / value, 0)
        head, tail = file.read_text().rsplit('"similarity": 0.25', 1)
        file.write_text(f'{head}"similarity": {value}{tail}')
        with pytest.raises(InputError, match=f"{file}: image 1, patch 5: a candidate.*{message}"):
            peer_models([tmp_path / value], None)
    for name, value in (("token_str", 5), ("caption", []), ("position", "2"), ("contextual_layer", 1.5)):
        file = published.latent(tmp_path / name, 0)
        content = json.loads(file.read_text())
        content["results"][1]["chunks"][0]["patches"][3]["nearest_contextual_neighbors"][0][name] = value
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=f"{file}: image 1, patch 3: {name}: found .*, expected") as refused:
            peer_models([tmp_path / name], None)
        assert "\n" not in str(refused.value)
    file = published.latent(tmp_path / "twice", 0)
    content = json.loads(file.read_text())
    content["results"][1]["chunks"][0]["patches"][3]["patch_row"] = 0
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{file}: image 1, chunk 0: two patches at row 0, column 0"):
        peer_models([tmp_path / "twice"], None)
