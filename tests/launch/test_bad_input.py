"""What a user can get wrong: one clear line (or a small table) on standard error, and exit code 2."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from launch import analyze, annotate, cli, convert, demo, extract, judge, report, show, status, train, tune, verify
from launch.clusters import local
from launch.exit_codes import exit_code
from lenscore.contexts import corpus_pieces
from lenscore.reports.writing import _make_room
from storage_layouts.errors import InputError
from storage_layouts.files import make_folder, require_place
from storage_layouts.results import LensResults
from tests.conftest import WORDS, make_llama, make_tokenizer


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(f"the {a} {b}" for a in WORDS for b in WORDS[:4]))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        Image.new("RGB", (40, 30), (80 * i, 30, 200 - 60 * i)).save(folder / f"{i}.png")
    return folder


def refused(capsys, main, *flags) -> str:
    """Run a command that must be refused, and return its message."""
    assert main([str(flag) for flag in flags]) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    assert "Traceback" not in message
    return message[message.index("error: ") :].strip()


def test_extract_refuses_in_one_line(capsys, tmp_path, tiny_llm_folder, corpus):
    out = tmp_path / "store.zarr"

    def extracting(model=tiny_llm_folder, corpus=corpus, *more):
        message = refused(capsys, extract.main, "--model", model, "--corpus", corpus, "--out", out, *more)
        assert "\n" not in message
        return message

    assert "no such model folder" in extracting(model=tmp_path / "nowhere")
    vision = tmp_path / "vision"
    CLIPVisionModel(CLIPVisionConfig(hidden_size=24, intermediate_size=16, num_hidden_layers=1)).save_pretrained(vision)
    assert "no language model" in extracting(model=vision)
    assert "layers 0 to 3" in extracting(tiny_llm_folder, corpus, "--layers", "1,9")
    assert "--per-token" in extracting(tiny_llm_folder, corpus, "--per-token", "0")
    assert "multiple of it" in extracting(tiny_llm_folder, corpus, "--rows-per-shard", "1500")
    assert "--detach: workers of --cluster local end" in extracting(tiny_llm_folder, corpus, "--detach")
    assert "--rounds: found 0" in extracting(tiny_llm_folder, corpus, "--rounds", "0")
    assert "--stale-after: found 0.0" in extracting(tiny_llm_folder, corpus, "--stale-after", "0")
    assert "no such folder" in extracting(tiny_llm_folder, corpus, "--after", str(tmp_path / "nowhere"))
    assert "at most 256 tokens" in extracting(tiny_llm_folder, corpus, "--max-tokens", "999")
    assert "no such file or folder" in extracting(corpus=tmp_path / "nothing.txt")
    for flag in ("--model", "--out"):
        assert f"lens extract: {flag}: found no value" in refused(capsys, extract.main, "--corpus", corpus, flag)
    assert extracting(corpus="concept").endswith("concept: no such file or folder; did you mean concepts?")
    (tmp_path / "empty.txt").write_text("\n\n")
    assert f"--corpus {tmp_path}/empty.txt: holds no sentence; expected lines" in extracting(
        corpus=tmp_path / "empty.txt"
    )
    (tmp_path / "folder").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "folder" / name).write_text("")
    told = extracting(corpus=tmp_path / "folder")
    assert f"--corpus {tmp_path}/folder/a.txt: holds no sentence nor the 1 file after it" in told


def test_a_corpus_that_is_not_utf8_names_the_line_and_can_be_replaced(capsys, tmp_path, tiny_llm_folder):
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"the dog\nthe \xe9t\xe9\n")
    flags = ["--model", tiny_llm_folder, "--corpus", latin, "--out", tmp_path / "s.zarr"]
    message = refused(capsys, extract.main, *flags)
    assert "latin.txt, line 2: not UTF-8" in message
    assert "--encoding-errors replace" in message
    again = [*map(str, flags[:-1]), str(tmp_path / "t.zarr"), "--encoding-errors", "replace"]
    assert extract.main(again) == 0


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif"])
@pytest.mark.parametrize("name", ["a.png", "a"])
def test_a_picture_as_a_corpus_is_called_one(capsys, tmp_path, tiny_llm_folder, kind, name):
    Image.effect_noise((40, 30), 50).save(tmp_path / name, kind)
    flags = ["--model", tiny_llm_folder, "--corpus", tmp_path / name, "--out", tmp_path / "s.zarr"]
    for more in ([], ["--encoding-errors", "replace"]) if kind != "png" else ([],):
        told = refused(capsys, extract.main, *flags, *more)
        assert told.endswith(
            f"{name}: looks like a picture (its first bytes are those of {kind.upper()}), expected text"
        )


@pytest.mark.parametrize("piece_bytes", [2**30, 60], ids=["at once", "in pieces"])
def test_after_a_share_without_a_sentence_the_mended_command_takes_the_folder(
    capsys, tmp_path, tiny_llm_folder, corpus, monkeypatch, piece_bytes
):
    monkeypatch.setattr(corpus_pieces, "PIECE_BYTES", piece_bytes)
    flags = ["--model", str(tiny_llm_folder), "--out", str(tmp_path / "s.zarr"), "--workers", "1", "--corpus"]
    assert "(or its share, or --language, left none)" in refused(capsys, extract.main, *flags, f"{corpus}=1e-9")
    assert (tmp_path / "s.zarr").exists() == (piece_bytes == 60)  # with what workers have planned
    assert extract.main([*flags, str(corpus)]) == 0


def test_an_unknown_language_leaves_nothing(capsys, tmp_path, tiny_llm_folder, corpus):
    pytest.importorskip("py3langid")
    flags = ["--model", tiny_llm_folder, "--corpus", corpus, "--language", "english", "--out", tmp_path / "new"]
    for main in (extract.main, tune.main):
        assert "--language english: expected one of the" in refused(capsys, main, *flags)
        assert not (tmp_path / "new").exists()


def test_a_folder_of_another_run_shows_the_differing_fields(capsys, tmp_path, tiny_llm_folder, corpus):
    flags = ["--model", tiny_llm_folder, "--corpus", corpus, "--out", tmp_path / "s.zarr"]
    assert extract.main([str(flag) for flag in flags]) == 0
    capsys.readouterr()
    message = refused(capsys, extract.main, *flags, "--per-token", "3", "--seed", "5")
    assert [line.split("|")[0].strip() for line in message.splitlines()[1:]] == [
        "field",
        "config.per_token",
        "config.seed",
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    message = refused(capsys, extract.main, *flags[:-1], tmp_path / "other")
    assert "not empty" in message
    assert (tmp_path / "other" / "thesis.tex").read_text() == "precious"


def test_analyze_refuses_in_one_line(capsys, tmp_path, tiny_llm_folder, tiny_vlm_folder, corpus, images):
    store = tmp_path / "s.zarr"
    assert extract.main(["--model", str(tiny_llm_folder), "--corpus", str(corpus), "--out", str(store)]) == 0
    capsys.readouterr()

    def analyzing(model=tiny_vlm_folder, images=images, store=store, *more):
        flags = ["--model", model, "--images", images, "--store", store, "--out", tmp_path / "r", *more]
        return refused(capsys, analyze.main, *flags)

    (tmp_path / "none").mkdir()
    assert "none" in analyzing(images=tmp_path / "none")
    assert "expected a vision-language model" in analyzing(model=tiny_llm_folder)
    assert "layers 0 to 3" in analyzing(tiny_vlm_folder, images, store, "--layers", "5")
    assert "lens" in analyzing(tiny_vlm_folder, images, store, "--lenses", "latent,crystal")
    other = tmp_path / "other-llm"
    make_llama(seed=9).save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    assert extract.main(["--model", str(other), "--corpus", str(corpus), "--out", str(tmp_path / "o.zarr")]) == 0
    capsys.readouterr()
    assert "weights" in analyzing(store=tmp_path / "o.zarr")


def test_an_unreadable_image_is_skipped_counted_and_listed(capsys, tmp_path, tiny_vlm_folder, images):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "torn.png").write_bytes((images / "0.png").read_bytes()[:40])
    (folder / "\x1b]0;gotcha\x07\x9b31m.png").write_bytes(b"no image")
    flags = ["--model", tiny_vlm_folder, "--images", folder, "--out", tmp_path / "r", "--lenses", "logit"]
    assert analyze.main([str(flag) for flag in flags]) == 0
    told = capsys.readouterr().err
    assert "2 images could not be read and were skipped" in told
    assert r"\x1b]0;gotcha" in told
    assert not {"\x1b", "\x9b", "\x07"} & set(told)
    assert "torn.png: " in told
    results = LensResults.open(tmp_path / "r")
    errors = {row["image_id"]: row["error"] for row in results.geometry().to_pylist()}
    skipped = {image for image, error in errors.items() if error}
    names = {Path(results.images()["path"][image].as_py()).name for image in skipped}
    assert names == {"torn.png", "\x1b]0;gotcha\x07\x9b31m.png"}
    assert set(results.results()["image_id"].to_pylist()) == set(errors) - skipped


def test_wrong_verbs_flags_and_folders(capsys, tmp_path):
    assert cli.main(["frobnicate"]) == 2
    assert "no verb 'frobnicate'" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    for main in (status.main, verify.main):
        assert "run folder" in refused(capsys, main, tmp_path)
    assert refused(capsys, report.main, tmp_path, "--out", tmp_path / "report")
    assert "(no such folder)" in refused(capsys, verify.main, tmp_path / "nowhere")
    assert "no flag --modle; did you mean --model?" in refused(capsys, extract.main, "--modle", "x")
    assert "--corpus, --out are missing; lens extract --help" in refused(capsys, extract.main, "--model", "x")
    assert "lens demo: --out is missing" in refused(capsys, demo.main, "--images=3")
    missing = refused(capsys, extract.main, "--config", tmp_path / "no.yaml")
    assert missing == f"error: --config {tmp_path}/no.yaml: cannot be read (No such file or directory)"


def test_an_output_folder_that_cannot_be_is_refused_before_anything_is_read(capsys, tmp_path):
    (tmp_path / "file").write_text("precious")
    none = tmp_path / "none"  # what would be refused next
    commands = {
        show.main: ("--model", none, "--image", none),
        extract.main: ("--model", none, "--corpus", none),
        analyze.main: ("--model", none, "--images", none, "--lenses", "logit"),
        train.main: ("--llm", none, "--vision", none, "--data", none),
        judge.main: ("--results", none),
        report.main: (none,),
        annotate.main: ("--results", none),
        demo.main: (),
    }
    told = f"error: {tmp_path}/file: cannot write: a file is in the place of a folder; choose another folder"
    for main, flags in commands.items():
        assert refused(capsys, main, *flags, "--out", tmp_path / "file" / "x") == told
    assert refused(capsys, convert.main, none, tmp_path / "file") == told


def test_a_folder_that_may_not_be_written_is_refused_as_one():
    with tempfile.TemporaryDirectory() as sealed:
        os.chmod(sealed, 0o555)
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may write anywhere
        try:
            with pytest.raises(InputError, match=f"^{sealed}: cannot write: permission denied; choose a folder"):
                require_place(Path(sealed, "new", "run"))
        finally:
            os.seteuid(user)


def test_an_output_folder_in_the_place_of_a_file_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert f"{tmp_path}/file: cannot write: a file" in refused(capsys, demo.main, "--out", tmp_path / "file" / "demo")
    with pytest.raises(InputError, match="file: cannot write"):
        _make_room(tmp_path / "file" / "report")
    with pytest.raises(InputError, match="no folder can be made here; choose another"):
        make_folder(Path("/proc/store.zarr"))


def test_a_config_file_fills_flags_and_names_unknown_fields(capsys, tmp_path, tiny_llm_folder, corpus):
    config = tmp_path / "run.yaml"
    config.write_text(f"model: {tiny_llm_folder}\ncorpus: [{corpus}]\nlayers: [1, 2]\nper_token: 7\ncausal: true\n")
    flags = ["--config", str(config), "--out", str(tmp_path / "s.zarr"), "--per-token", "9", "--print-config"]
    with pytest.raises(SystemExit) as end:
        extract.main(flags)
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "per_token: 9" in printed
    assert "layers: 1,2" in printed
    again = tmp_path / "again.yaml"
    again.write_text(printed)
    with pytest.raises(SystemExit):
        extract.main(["--config", str(again), "--print-config"])
    assert capsys.readouterr().out == printed
    config.write_text("per_tokens: 7\n")
    assert "no field 'per_tokens'; did you mean per_token?" in refused(capsys, extract.main, "--config", config)


def test_a_full_disk_is_one_line_and_what_is_done_stays(capsys, tmp_path, tiny_llm_folder, corpus):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        if os.environ.get("CLUSTER_TESTS") == "require":
            pytest.fail(f"cannot mount a small tmpfs: {mounted.stderr.decode()}")
        pytest.skip("cannot mount a small tmpfs here")
    try:
        out = small / "s.zarr"
        flags = ["--model", tiny_llm_folder, "--corpus", corpus, "--out", out, "--rows-per-shard", "8"]
        message = refused(capsys, extract.main, *flags)
        assert "disk full" in message
        assert "\n" not in message
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert extract.main([str(flag) for flag in flags]) == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_worker_that_falls_leaves_its_last_words_and_the_place_of_its_log(
    capsys, tmp_path, tiny_llm_folder, corpus, monkeypatch
):
    monkeypatch.setattr(local, "subprocess", subprocess)  # not forked: it falls while Python starts
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("raise SystemExit('no such luck')\n")
    out = tmp_path / "s.zarr"
    assert extract.main(["--model", str(tiny_llm_folder), "--corpus", str(corpus), "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert "1 of 1 shard is missing" in message
    assert "SystemExit: no such luck; log: " in message
    assert Path(message.split("log: ")[1].splitlines()[0]).exists()


@pytest.mark.parametrize(("goes_on", "said"), [(True, "repeat the command to go on"), (False, "begins again")])
def test_a_stopped_command_says_what_the_repeated_one_does(capsys, goes_on, said):
    def stop() -> int:
        raise KeyboardInterrupt

    def terminated() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert exit_code(stop, goes_on) == 130
    assert capsys.readouterr().err.strip().endswith(said)
    assert exit_code(lambda: exit_code(terminated, goes_on)) == 143
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stopped by SIGTERM; ")
    assert ("what is finished is kept" in line) == goes_on
    assert line.endswith(said)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_command_leaves_sigterm_to_a_scheduler_that_handles_it():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("by the scheduler"))
    try:
        assert exit_code(lambda: os.kill(os.getpid(), signal.SIGTERM) or 0) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["by the scheduler"]
