"""`lens read` as a user types it: tables, page and CSV; a text, a file, a chat; mistakes are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from launch import cli
from launch.read import _text_of
from tests.conftest import make_llama, make_tokenizer


def read(*flags: object) -> int:
    return cli.main(["read", *map(str, flags)])


def test_tables_page_and_csv(capsys, tmp_path: Path, tiny_llm_folder: Path) -> None:
    flags = ["--model", tiny_llm_folder, "--text", "the red dog is", "--device", "cpu", "--max-new-tokens", 3]
    assert read(*flags, "--out", tmp_path / "a") == 0
    out = capsys.readouterr().out
    assert "text · LogitLens: likeliest next token · logit" in out
    assert "text · EmbeddingLens" in out
    assert "layer 4: the output of the last block" in " ".join(out.split())
    assert f"page: {tmp_path}/a/text-lens.html\ntable: {tmp_path}/a/text-lens.csv\n" in out
    table = pd.read_csv(tmp_path / "a/text-lens.csv")
    assert table["text"].drop_duplicates().tolist()[:5] == ["<s>", "the", "red", "dog", "is"]
    assert 1 <= table[table["answer"]]["position"].nunique() <= 3
    assert table["layer"].drop_duplicates().tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "text.txt").write_text("the red dog is\n", encoding="utf-8-sig")
    assert read(*flags[:2], *flags[4:], "--file", tmp_path / "text.txt", "--out", tmp_path / "b") == 0
    assert pd.read_csv(tmp_path / "b/text-lens.csv").equals(table)
    assert "replaced" not in capsys.readouterr().out
    assert read(*flags, "--out", tmp_path / "a") == 0
    assert "replaced, of an earlier text of this name: text-lens.csv, text-lens.html;" in capsys.readouterr().out


def test_a_chat(capsys, tmp_path: Path) -> None:
    make_llama().save_pretrained(tmp_path / "chat")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}is"
    tokenizer.save_pretrained(tmp_path / "chat")
    (tmp_path / "talk.json").write_text(json.dumps([{"role": "user", "content": "the red dog"}]))
    assert read("--model", tmp_path / "chat", "--file", tmp_path / "talk.json", "--out", tmp_path, "--layers", "0") == 0
    table = pd.read_csv(tmp_path / "talk-lens.csv")
    assert table["text"].drop_duplicates().tolist() == ["<s>", "the", "red", "dog", "is"]


def test_the_name_of_a_file_may_be_any_bytes(tmp_path: Path, tiny_llm_folder: Path) -> None:
    (tmp_path / "na\udce9me.txt").write_text("the dog")
    assert (
        read("--model", tiny_llm_folder, "--file", tmp_path / "na\udce9me.txt", "--out", tmp_path, "--layers", 0) == 0
    )
    assert "na\ufffdme" in (tmp_path / "na\udce9me-lens.html").read_text()


def test_line_ends_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "dos.txt").write_bytes(b"\xef\xbb\xbfthe dog\r\nis red\r")
    assert _text_of(tmp_path / "dos.txt") == "the dog\r\nis red\r"


def test_what_is_missing_is_found_before_pytorch_is_loaded(tmp_path: Path, tiny_llm_folder: Path) -> None:
    script = (
        "import sys; from launch import cli; code = cli.main(sys.argv[1:]); "
        "sys.exit(10 * ('torch' in sys.modules) + code)"
    )
    (tmp_path / "blank.txt").write_text("")
    (tmp_path / "talk.json").write_text('[{"role": "user"}]')
    for command, said in (
        (["read", "--text", "the dog", "--store", tmp_path / "gone.zarr"], "gone.zarr: not a run folder"),
        (["show", "--image", "a.png", "--store", tmp_path / "gone.zarr"], "gone.zarr: not a run folder"),
        (
            ["read", "--text", "the dog", "--tuned", tmp_path],
            f"--tuned {tmp_path}: no config.json in it; expected a run",
        ),
        (["read", "--file", tmp_path / "blank.txt"], "blank.txt: an empty text"),
        (["read", "--file", tmp_path / "talk.json"], "talk.json: message 1: found {'role': 'user'}"),
        (["find", "dog", "--images", tmp_path / "gone.png"], "gone.png: no such file or folder"),
        (["find", "dog", "dog", "--images", tmp_path / "gone.png"], "words 'dog', 'dog': expected each once"),
    ):
        flags = ["--model", tiny_llm_folder, "--out", tmp_path]
        words = [sys.executable, "-c", script, *map(str, [*command, *flags])]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (ended.returncode, said in ended.stderr) == (2, True), ended.stderr


def test_mistakes_are_one_line(capsys, tmp_path: Path, tiny_llm_folder: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "deep.JSON").write_text("[" * 100_000)
    (tmp_path / f"{'long' * 62}.txt").write_text("the dog")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "blank.txt").write_text(" \n")
    for flags, said in (
        ([], "expected --text TEXT or --file FILE, and not both"),
        (["--text", " "], "--text: an empty text; expected words to read"),
        (["--text", ""], "--text: an empty text; expected words to read"),
        (["--text", "", "--file", "b"], "expected --text TEXT or --file FILE, and not both"),
        (["--text", "a", "--file", "b"], "expected --text TEXT or --file FILE, and not both"),
        (["--file", tmp_path / "gone.txt"], "gone.txt: No such file or directory"),
        (["--file", tmp_path / "latin.txt"], "latin.txt: byte 3 is not UTF-8"),
        (["--file", tmp_path / "bad.json"], "bad.json: not JSON"),
        (["--file", tmp_path / "object.json"], "expected a list of messages"),
        (["--text", "a", "--top-k", "0"], "--top-k: found 0"),
        (["--text", "a", "--max-new-tokens", "-1"], "--max-new-tokens: found -1"),
        (["--file", tmp_path / "blank.txt"], "blank.txt: an empty text"),
        (["--text", "the dog " * 200], "tokens; the model reads at most"),
        (["--text", "caf\udce9"], "text: character 3 is no text in UTF-8"),
        (["--file", tmp_path / "deep.JSON"], "deep.JSON: not JSON"),
        (["--file", tmp_path / f"{'long' * 62}.txt"], "is longer than the 255 bytes of a file name; rename the file"),
        (["--text", "the dog", "--layers", "9"], "--layers: layer 9 does not exist"),
        (["--text", "the dog", "--store", tmp_path / "gone.zarr"], "gone.zarr"),
    ):
        assert read("--model", tiny_llm_folder, *flags, "--out", tmp_path) == 2, flags
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert said in line
    assert read("--model", tmp_path / "gone", "--text", "a") == 2
    assert "no such model folder" in capsys.readouterr().err
