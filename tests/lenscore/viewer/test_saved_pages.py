"""Saved logit-lens pages of llava-interp (arXiv 2410.07149) in the viewer, in both layouts that scripts write."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lenscore.reports.writing import write_report
from lenscore.viewer.saved_pages import page_models
from storage_layouts.errors import InputError
from tests.viewer_pages import Site

HOSTILE = "</script><b>\u202e"
LABELS = ["<s>", " US", *(f"<IMG{number:03}>" for number in range(1, 7)), " is"]


def candidates(layer: int, token: int) -> list[list[str]]:
    return [[f" word{layer}-{token}", f"{0.5 + token / 100:.4f}"], [HOSTILE, "0.1000"], ["", "0.0000"]]


def saved_page(path: Path, layers: int = 3, **changes: Any) -> Path:
    """A page of 2 x 3 patches of 10 pixels, with everything that is read from it, and a script."""
    picture = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(picture, "PNG")
    constants = {
        "data": [[candidates(layer, token) for token in range(len(LABELS))] for layer in range(layers)],
        "tokenLabels": LABELS,
        "imageWidth": 30,
        "imageHeight": 20,
        "gridH": 2,
        "gridW": 3,
        "patchSize": 10,
    } | changes
    lines = "\n".join(f"    const {name} = {json.dumps(value)};" for name, value in constants.items())
    image = f'<img src="data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}" alt="Input Image">'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<html><body>{image}<p>Prompt:\n    const data = no;\n</p><script>\n{lines}\n alert(1)</script></body></html>"
    )
    return path


def test_words_probabilities_and_boxes_are_those_of_the_page(tmp_path: Path) -> None:
    saved_page(tmp_path / "pages" / "llava_dog_logit_lens.html")
    saved_page(tmp_path / "pages" / "more" / "llava_cat_logit_lens.html")
    (tmp_path / "pages" / "index.html").write_text("an overview")
    (model,) = page_models([tmp_path / "pages"])
    assert model.label == "pages"
    assert dict(model.readings.names) == {0: "llava_dog", 1: "llava_cat"}
    assert model.readings.layers == (0, 1, 2)
    ((_, reading),) = model.readings.readings([1])
    assert (reading.width, reading.height) == (30, 20)
    assert reading.picture is not None
    assert reading.places.tolist() == [[0, row, col] for row in range(2) for col in range(3)]
    np.testing.assert_allclose(reading.boxes[4], [1 / 3, 1 / 2, 2 / 3, 1])
    (lens,) = reading.lenses
    for layer in range(3):
        for patch in range(6):
            token = 2 + patch
            words = [lens.words[word] for word in lens.which[layer, patch]]
            assert [word.token for word in words] == [text for text, _ in candidates(layer, token)]
            assert words[0].text == f"word{layer}-{token}"
            np.testing.assert_allclose(lens.scores[layer, patch], [0.5 + token / 100, 0.1, 0], atol=1e-6)


def test_the_tokens_of_the_prompt_have_a_page_of_text(tmp_path: Path) -> None:
    data = [[candidates(layer, token) for token in range(len(LABELS))] for layer in range(2)]
    data[1][0][1] = [" US", "0.2000"]  # the token that follows
    (model,) = page_models([saved_page(tmp_path / "llava_dog_logit_lens.html", data=data)])
    assert model.readings.has_texts
    ((_, reading),) = model.readings.texts([0])
    assert reading.tokens == ("<s>", " US", " is")
    (lens,) = reading.lenses
    assert [lens.words[word].text for word in lens.which[1, :, 0]] == ["word1-0", "word1-1", "word1-8"]
    same = [[lens.words[word].token_id == reading.token_ids[1] for word in line] for line in lens.which[:, 0]]
    assert same == [[False] * 3, [False, True, False]]


def test_a_square_page_is_shown_in_the_viewer_and_nothing_of_it_is_run(browser, tmp_path: Path) -> None:
    labels = [f"<IMG{number:03}>" for number in range(1, 5)]
    page = saved_page(tmp_path / "llava_dog_logit_lens.html", tokenLabels=labels, imageSize=28, patchSize=14)
    text = page.read_text()
    for name in ("imageWidth", "imageHeight", "gridH", "gridW"):
        text = text.replace(f"const {name} =", f"const not_{name} =")
    page.write_text(text)
    report = write_report([page], tmp_path / "out")
    assert "saved pages of the logit lens" in report.report.read_text()
    (image,) = report.viewer.parent.glob("*/image.html")
    site = Site(browser, f"{image.as_uri()}#0/1/0-1-0")
    site.wait(lambda: site.find("#lenses .word"))
    assert site.texts("#lenses h2") == ["LogitLens"]
    assert site.texts("#lenses .word")[0] == "word1-2"
    assert "likeliest next token \\u00b7 probability" in (image.parent / "run.js").read_text()
    site.assert_quiet()
    assert not any(b"alert(1)" in file.read_bytes() for file in image.parent.rglob("*.js"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": []}, "data: expected a list with the tokens of each layer"),
        ({"data": [[[["a", "0.5"]]] * 8]}, "data[0]: found 8 tokens, expected the candidates of 9 tokens"),
        ({"data": [[[["a", "2"]]] * 9]}, "data[0][0]: found the probability '2', expected 0 to 1"),
        ({"data": [[[["a", "nan"]]] * 9]}, "data[0][0]: found the probability 'nan'"),
        ({"data": [[[["a"]]] * 9]}, 'data[0][0]: found [\'a\'], expected ["token", "probability"]'),
        ({"tokenLabels": ["a", "b"]}, "tokenLabels: expected <IMG001> to at most <IMG006>, each once"),
        ({"tokenLabels": ["<IMG001>", "<IMG001>"]}, "tokenLabels: expected <IMG001> to at most <IMG006>, each once"),
        ({"gridW": 4}, "2 x 4 patches of 10 pixels do not fit into a picture of 30 x 20"),
        ({"patchSize": 0}, "patchSize: found 0, expected a whole number above 0"),
    ],
)
def test_what_is_wrong_with_a_page_is_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    page = saved_page(tmp_path / "x_logit_lens.html", **changes)
    with pytest.raises(InputError) as refused:
        page_models([page])
    assert str(refused.value).startswith(f"{page}: {said}")
    assert "\n" not in str(refused.value)


def test_pages_of_models_of_different_depth_and_other_pages_are_refused(tmp_path: Path) -> None:
    saved_page(tmp_path / "a_logit_lens.html")
    saved_page(tmp_path / "b_logit_lens.html", layers=2)
    with pytest.raises(
        InputError, match=r"b_logit_lens.html: has 2 layers, but .*a_logit_lens.html has 3; name folders"
    ):
        page_models([tmp_path])
    (tmp_path / "b_logit_lens.html").write_text("<html>another tool's page")
    with pytest.raises(InputError, match="no 'const tokenLabels = ' in it; expected a page of the logit lens"):
        page_models([tmp_path / "b_logit_lens.html"])
