"""What is no run is called by its name, with what to do."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from storage_layouts.errors import InputError
from storage_layouts.other_files import what_it_is
from storage_layouts.runs import RunFolder
from tests import published_files as published


def archive(file: Path) -> Path:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("data.json", "[]")
    else:
        with tarfile.open(file, "w:gz") as made:
            made.addfile(tarfile.TarInfo("data.json"))
    return file


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


STUDY = [{"id": "a", "model": "m", "candidates": ["dog"]}]
FILES = {
    "descriptions": (lambda folder: published.descriptions(folder, 8), "Patchscopes descriptions: generated text"),
    "plot data": (published.plot_data, "what the LatentLens paper's figures are drawn from; `lens report --compare pa"),
    "aggregated": (published.aggregated, "a table of rates by lens, model and layer; --compare takes"),
    "zip": (lambda folder: archive(folder / "study.zip"), "a zip archive; unzip it first"),
    "tar": (lambda folder: archive(folder / "results.tar.gz"), "an archive; unpack it first"),
    "page": (
        lambda folder: written(folder / "lens.html", "<script>plotly</script><b>Logit Lens</b>"),
        "a saved page (HTML) of a logit lens: it holds drawings, no results; name the files that it was made from",
    ),
    "other page": (lambda folder: written(folder / "x.html", "<p>"), "a saved page (HTML): it holds drawings"),
    "study": (lambda folder: written(folder / "data.json", json.dumps(STUDY)), "the data.json of a human study; `lens"),
    "session": (lambda folder: written(folder / "e.json", '{"userId": 1, "results": []}'), "a session of a human"),
    "replies": (
        lambda folder: written(folder / "r.json", '{"results": [{"instance_id": "a", "gpt_response": {}}]}'),
        "a judge's replies to a human study; `lens agreement --human DIR --judge FILE` takes it",
    ),
    "renamed evaluation": (
        lambda folder: published.evaluation_results(folder, {0: "yn"}).rename(folder / "old.json"),
        "the output of the latentlens judge; `lens report` takes it under its name evaluation_results.json",
    ),
    "renamed judge": (
        lambda folder: published.results_of_vocabulary_lens(folder, 0, {"a": "y"}).rename(folder / "old.json"),
        "replies of the latentlens judge; `lens report` takes it under its name results_validation.json",
    ),
    "broken": (lambda folder: written(folder / "b.json", "{"), "a .json file that cannot be read as JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_known_file_is_called_by_its_name_alone_and_in_a_folder(tmp_path: Path, name: str) -> None:
    make, expected = FILES[name]
    file = make(tmp_path)
    assert what_it_is(file).startswith(expected)
    assert what_it_is(tmp_path).startswith(f"no run.json in it; {file.name} is {expected}")


def test_unknown_files_are_not_called_missing(tmp_path: Path) -> None:
    file = written(tmp_path / "notes.txt", "x")
    assert what_it_is(file).startswith("a file that is not known here")
    assert what_it_is(tmp_path) == "no run.json in it, and no file that is known here"
    assert what_it_is(tmp_path / "gone") == "no such file or folder"
    with pytest.raises(InputError, match=r"notes.txt: not a run folder \(a file\)"):
        RunFolder.open(file)
    with pytest.raises(InputError, match=r"gone: not a run folder \(no such folder\)"):
        RunFolder.open(tmp_path / "gone")
