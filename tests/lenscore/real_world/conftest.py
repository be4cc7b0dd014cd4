"""A package of artwork as npm packs it, with drawn pictures in the place of the real ones."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from lenscore.real_world.artwork_scenes import NOUNS


@pytest.fixture(scope="session")
def artwork_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with NOUNS.open(encoding="utf-8", newline="") as table:
        names = [name for line in csv.DictReader(table) for name in line["pictures"].split()]
    path = tmp_path_factory.mktemp("artwork") / "artwork.tgz"
    with tarfile.open(path, "w:gz") as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        add("emoji.json", json.dumps([{"short_name": name, "image": f"{name}.png"} for name in names]).encode())
        for number, name in enumerate(names):
            image = Image.new("RGBA", (64, 64))
            colour = (37 * number % 256, 91 * number % 256, 173 * number % 256, 255)
            ImageDraw.Draw(image).ellipse((4 + number % 20, 8, 50, 60), fill=colour)
            png = io.BytesIO()
            image.save(png, "png")
            add(f"img/drawn/64/{name}.png", png.getvalue())
    return path
