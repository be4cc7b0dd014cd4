"""Result files of the paper's scripts in the viewer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lenscore.reports import write_report
from lenscore.viewer.peer_readings import peer_models
from lenscore.viewer.readings import RunReadings
from storage_layouts.errors import InputError
from storage_layouts.results_conversion import results_to_json
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
        InputError, match=r"--peer-images: 1 images, but .*visual0.* speaks of image 1 \(the first is 0\)"
    ):
        write_report([tmp_path / "one"], tmp_path / "out", peer_images=tmp_path / "few")
    with pytest.raises(InputError, match=r"--peer-images .*gone: no such file or folder"):
        write_report([tmp_path / "one"], tmp_path / "out", peer_images=tmp_path / "gone")
    with pytest.raises(InputError, match=r"--peer-images .*few: no folder of latentlens result files is named"):
        write_report([], tmp_path / "out", peer_images=tmp_path / "few")
    peer_file(tmp_path / "one" / "again", 0)
    with pytest.raises(InputError, match=r"the lens latent at layer 0 of x/step1 is in .* too"):
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
    assert re.search(r"\| one +\| result files [0-9a-f]{6} +\| – ", text)


def _renamed(folder: Path) -> Path:
    peer_file(folder / "two", 3)
    return folder / "two"
