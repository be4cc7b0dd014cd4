"""The demo: the whole pipeline on the shapes world, which ends in a viewer that says what is seen."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from launch import demo


@pytest.mark.slow
def test_the_demo_ends_in_a_viewer_that_says_what_is_seen(tmp_path: Path, capfd) -> None:
    assert demo.main(["--out", str(tmp_path / "demo"), "--images", "8", "--workers", "1"]) == 0
    said = capfd.readouterr().out.strip().splitlines()
    index = tmp_path / "demo" / "report" / "viewer" / "index.html"
    assert f"viewer: {index}" in said
    assert said[-3].startswith(f"next: open {index} in a browser, ")
    image = tmp_path / "demo" / "images" / "test-00000.png"
    assert image.exists()
    assert f"--image {image} --store {tmp_path}/demo/store.zarr" in said[-2]
    (seen,) = re.findall(r'<p class="seen">(.*?)</p>', index.read_text())
    assert re.search(
        r"of its 5 best words is right for \d+\xa0% .* 8 patches of 8 images; the exact truth\)", html.unescape(seen)
    )
    (page,) = index.parent.glob("*/index.html")
    assert page.read_text().count('class="caption"') == 8
    assert 'kind":"background' in (page.parent / "images" / "000003.js").read_text()
