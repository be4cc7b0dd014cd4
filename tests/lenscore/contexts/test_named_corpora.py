"""Corpora by name, shares of several, and the language filter."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
import zipfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.extract_job import ExtractJob
from jobs.tune_job import TuneJob
from jobs.unchanged_inputs import completed_before, remember_inputs
from lenscore.contexts import concepts_corpus
from lenscore.contexts.corpus import (
    TextChoice,
    corpus_files,
    corpus_identity,
    load_corpus,
    read_corpus,
    require_corpora,
)
from lenscore.contexts.named_corpora import absolute_corpus, paths_of, recorded_commits, split_share
from lenscore.contexts.phrase_corpus import DATA, PHRASES, make_phrases
from lenscore.user_files.notes import Notes
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.runs import RunFolder
from tests.conftest import WORDS
from tests.jobs.test_analyze import complete

SENTENCES = [f"sentence number {number}" for number in range(2000)]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LENSCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, sentences: list[str]) -> str:
    path.write_text("".join(f"{sentence}\n" for sentence in sentences))
    return str(path)


def test_the_shipped_phrases_are_those_of_their_word_lists() -> None:
    content = yaml.safe_load((DATA / "phrase_words.yaml").read_text())
    phrases = load_corpus("phrases")
    assert "\n".join(make_phrases(content)) + "\n" == PHRASES.read_text()
    assert len(phrases) == len(set(phrases)) > 5000
    text = "\n".join(phrases)
    missing = [
        word for words in content["words"].values() for word in words.split(", ") if word.split("/")[0] not in text
    ]
    assert missing == []


def test_a_share_is_a_fraction_by_a_hash_of_seed_and_text(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.txt", SENTENCES), write(tmp_path / "b.txt", ["other " + s for s in SENTENCES])

    def chosen(share: float, seed: int, text: str) -> bool:
        salt = seed.to_bytes(16, "little")
        digest = hashlib.blake2b(text.encode(), digest_size=8, salt=salt, person=b"corpus share").digest()
        return int.from_bytes(digest, "little") < share * 2**64

    notes = Notes()
    found = list(read_corpus(corpus_files([f"{first}=0.3", second]), TextChoice(seed=7), notes))
    kept = [text for text in SENTENCES if chosen(0.3, 7, text)]
    assert found == kept + ["other " + text for text in SENTENCES]
    assert 500 < len(kept) < 700
    left = len(SENTENCES) - len(kept)
    assert notes.lines() == [f"sentences left out by the share of their corpus: {left:,} (a.txt {left:,})"]
    smaller = list(read_corpus(corpus_files([f"{first}=.1"]), TextChoice(seed=7)))
    assert set(smaller) < set(kept)


@pytest.mark.parametrize("kind", [ExtractJob, TuneJob])
def test_with_a_limit_is_noted_what_a_share_left_out_before(tiny_llm_folder: Path, tmp_path: Path, kind: type) -> None:
    texts = [f"the {a} {b} is {c}" for a in WORDS[:9] for b in WORDS[:9] for c in WORDS[:9]]
    corpus = write(tmp_path / "a.txt", texts) + "=0.5"
    few = {"steps": 1, "sequences_per_step": 2, "tokens_per_sequence": 8} if kind is TuneJob else {}
    job = kind(str(tiny_llm_folder), (corpus,), tmp_path / "out", limit=200, **few)
    run = job.open_run()
    job.plan(run, lambda message: None)
    left = texts.index(list(read_corpus(corpus_files([corpus])))[199]) - 199
    note = f"sentences left out by the share of their corpus: {left} (a.txt {left})"
    assert run.require_plan().facts["notes"] == [note]


def test_a_path_that_exists_goes_before_a_name_or_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("a.txt=0.5"), ["all of it"])
    assert split_share("a.txt=0.5") == ("a.txt=0.5", 1.0)
    assert split_share("hf:me/texts:en=0.25") == ("hf:me/texts:en", 0.25)
    assert absolute_corpus("phrases=0.5") == "phrases=0.5"
    assert split_share(absolute_corpus("phrases=.00001")) == ("phrases", 1e-5)
    Path("phrases").mkdir()
    write(Path("phrases/mine.txt"), ["mine"])
    assert load_corpus("phrases") == ["mine"]
    assert absolute_corpus("phrases=0.5") == f"{tmp_path}/phrases=0.5"
    assert absolute_corpus("vg:r.json") == f"vg:{tmp_path}/r.json"
    assert paths_of(["hf:me/x", "vg", "vg:r.json", "phrases=0.5", "b.txt"]) == [
        Path("phrases"),
        Path("b.txt"),
        Path("r.json"),
    ]


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("phrases=0", "the share is 0, expected above 0 and at most 1"),
        ("phrases=1.5", "the share is 1.5, expected above 0"),
        ("phrases=0.5.1", "the share is 0.5.1, expected above 0"),
        ("hf:", r"expected hf:DATASET\[@REVISION\]"),
        ("hf:a/b/c", r"expected hf:DATASET\[@REVISION\]"),
        ("hf:a/b@", r"expected hf:DATASET\[@REVISION\]"),
        ("hf:a/b:c:d:e:f", r"expected hf:DATASET\[@REVISION\]"),
        ("Phrases", "no such file or folder"),
        ("x" * 300, "no such file or folder"),
        ("vg:" + "x" * 300, "no such file or folder"),
        (f"{'x' * 300}=0.5", "no such file or folder"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(corpus: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        require_corpora([corpus])
    assert "\n" not in str(refusal.value)
    absolute_corpus(corpus.partition("=")[0])


@pytest.mark.parametrize(
    "corpus",
    [
        [],
        "texts",
        {"named": None},
        {"named": ["hf:me/x"]},
        {"named": [{"corpus": "hf:me/x", "revision": "main"}]},
        {"named": [{"corpus": 3, "revision": "0" * 40}]},
    ],
)
def test_a_run_of_somebody_else_with_another_record_of_its_corpus_is_one_line(tmp_path: Path, corpus: Any) -> None:
    run = RunFolder.create(tmp_path / "run", "extract", {}, {"corpus": corpus})
    run.settle()
    with pytest.raises(CorruptError, match=r"run\.json: (found|no field)"):
        recorded_commits(RunFolder.open(tmp_path / "run"))


def zipped(content: bytes, size: int = 0) -> bytes:
    """A zip with region descriptions; `size` is declared to be their bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("region_descriptions.json", content)
        if size:
            archive.infolist()[0].file_size = size
    return data.getvalue()


REGIONS = [
    {"id": 1, "regions": [{"region_id": 1, "phrase": "a red  dog\n"}, {"region_id": 2, "phrase": "the sky"}]},
    {"id": 2, "regions": []},
    {"id": 3, "regions": [{"phrase": " "}, {"phrase": "a red dog"}, {"phrase": "größer"}]},
]


def test_region_descriptions_become_their_distinct_phrases(tmp_path: Path, own_cache: Path) -> None:
    """From the file itself and from the zip that is published, of which the checksum is recorded."""
    (tmp_path / "regions.json").write_text(json.dumps(REGIONS))
    with zipfile.ZipFile(tmp_path / "regions.zip", "w") as archive:
        archive.writestr("region_descriptions.json", json.dumps(REGIONS))
    for name in ("regions.json", "regions.zip"):
        files = corpus_files([f"vg:{tmp_path / name}"])
        assert list(read_corpus(files)) == ["a red dog", "the sky", "größer"]
        (named,) = corpus_identity(files)["named"]
        counts = {"regions": 5, "regions_without_a_phrase": 1, "distinct_phrases": 3}
        sha256 = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert named == {"corpus": "vg", "licence": "CC BY 4.0", "sha256": sha256, **counts}
    with pytest.raises(InputError, match=r"download https://\S+region_descriptions\.json\.zip \(CC BY 4\.0.*vg:PATH"):
        corpus_files(["vg"])
    (tmp_path / "regions.zip").rename(own_cache / "corpora" / "region_descriptions.json.zip")
    assert load_corpus("vg") == ["a red dog", "the sky", "größer"]
    assert sorted(path.suffix for path in (own_cache / "corpora").iterdir()) == [
        ".json",
        ".json",
        ".txt",
        ".txt",
        ".zip",
    ]


@pytest.mark.parametrize("corpus", ["vg", "concepts"])
def test_a_complete_run_is_read_again_if_the_file_behind_a_name_or_the_language_package_changed(
    tiny_llm_folder: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, corpus: str
) -> None:
    monkeypatch.setattr(concepts_corpus, "installed_concepts", lambda: None)
    name = "region_descriptions.json" if corpus == "vg" else f"concepts-{concepts_corpus.LATENTLENS.sha256[:16]}.txt"
    file = own_cache / "corpora" / name
    file.parent.mkdir(parents=True)
    phrases = [f"the {a} {b}" for a in WORDS[:9] for b in WORDS[:9]]
    file.write_text(json.dumps([{"regions": [{"phrase": phrase} for phrase in phrases]}]))
    job = ExtractJob(str(tiny_llm_folder), (corpus,), tmp_path / "store.zarr", layers="1")
    run = complete(job)
    later = time.time_ns() + 10**10
    remember_inputs(run, job, later)
    assert completed_before(job)
    with monkeypatch.context() as patched:
        patched.setattr(metadata, "version", lambda name, v=metadata.version: "9" if name == "py3langid" else v(name))
        assert completed_before(job) is None
    file.write_text(file.read_text() + " ")
    assert completed_before(job) is None
    file.unlink()
    assert completed_before(job) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1}', "entry 0: expected an image with a list of regions"),
        (b'[{"id": 1, "regions": [{"phrase": 3}]}]', "entry 1: expected regions with a phrase each"),
        (b'[{"regions": [{"phrase": "a"}]}, {"objects": []}]', "entry 2: expected an image with a list of regions"),
        (b"[]", "holds no phrase"),
        (b'[{"regions": [', "not JSON"),
        (b'[{"regions": [{"phrase": "\\ud800"}]}]', r"entry 1: half of a character \(.ud800"),
        (b"PK\x05\x06" + b"\0" * 18, "a zip with 0 JSON files"),
        (zipped(b"[{")[:-9], r"a broken zip \(File is not a zip file\); download it again"),
        (zipped(b"[{"), r"file \(region_descriptions.json\), line 1: not JSON"),
        (zipped(b"[]")[:54] + b"\xff" + zipped(b"[]")[55:], r"a broken zip \(Error -3 while decompressing"),
        (zipped(b"[]", size=1), r"a broken zip \(Bad CRC-32"),
        (zipped(b"[]").replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1"), "password required"),
        (zipped(b"[]").replace(b"\0\0\x08\0", b"\0\0\x63\0"), "method is not supported.*give the JSON file in it"),
        (zipped(b"[]", size=1 << 40), "unpacks to 1,099,511,627,776 bytes, expected at most 8,589,934,592"),
    ],
)
def test_another_file_in_the_place_of_region_descriptions_is_refused(
    tmp_path: Path, own_cache: Path, content: bytes, message: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message):
        corpus_files([f"vg:{tmp_path / 'file'}"])
    assert not (own_cache / "corpora").exists() or list((own_cache / "corpora").iterdir()) == []


def source_distribution(folder: Path, ran: Path) -> Path:
    """One of latentlens whose build makes the folder `ran`."""
    folder.mkdir()
    content = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: latentlens\nVersion: 0.1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "back"\nbackend-path = ["."]\n',
        "back.py": f"import os\nos.mkdir({str(ran)!r})\n",
    }
    with tarfile.open(folder / "latentlens-0.1.0.tar.gz", "w:gz") as archive:
        for name, text in content.items():
            member = tarfile.TarInfo(f"latentlens-0.1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return folder / "latentlens-0.1.0.tar.gz"


def test_concepts_come_from_the_package_that_is_installed_or_downloaded(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no-index").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", str(source_distribution(tmp_path / "links", ran=tmp_path / "ran").parent))
    with pytest.raises(InputError, match=r"concepts: latentlens: `pip` could not .*; without a network give the path"):
        load_corpus("concepts")
    assert not (tmp_path / "ran").exists()
    wheel = own_cache / "packages" / "latentlens.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(concepts_corpus.CONCEPTS_MEMBER, "The aa flowed.\n")
    known = {"file": wheel.name, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
    monkeypatch.setattr(concepts_corpus, "LATENTLENS", replace(concepts_corpus.LATENTLENS, **known))
    downloaded = corpus_files(["concepts"])
    assert list(read_corpus(downloaded)) == ["The aa flowed."]

    (tmp_path / "site" / "latentlens" / "data").mkdir(parents=True)
    (tmp_path / "site" / "latentlens" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "site" / "latentlens" / "data" / "concepts.txt").write_text("The aa flowed.\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    installed = corpus_files(["concepts"])
    assert installed[0].path != downloaded[0].path
    assert corpus_identity(installed) == corpus_identity(downloaded)
    assert load_corpus("concepts.txt") == ["The aa flowed."]
    (tmp_path / "concepts.txt").write_text("mine\n")
    assert load_corpus("concepts.txt") == ["mine"]


def test_sentences_in_other_languages_are_left_out_and_counted(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    english = ["a small dog runs over the grass", "there is a red house beside the river"]
    german = ["ein kleiner Hund läuft über die Wiese", "am Fluss steht ein rotes Haus"]
    french = ["un petit chien court dans le pré"]
    files = corpus_files([write(tmp_path / "mixed.txt", [german[0], *english, *french, german[1]])])
    notes = Notes()
    assert list(read_corpus(files, TextChoice(language="en"), notes)) == english
    assert notes.lines() == ["sentences in another language, left out: 3 (de 2, fr 1)"]
    assert list(read_corpus(files, TextChoice(language="de"))) == german
    with pytest.raises(InputError, match=r"holds no sentence \(or its share, or --language, left none\);"):
        list(read_corpus(files, TextChoice(language="it")))
    with pytest.raises(InputError, match=r"--language english: expected one of the 1\d\d codes of py3langid, as in en"):
        list(read_corpus(files, TextChoice(language="english")))
    assert corpus_identity(files, "en")["language_package"].startswith("py3langid 0.")
