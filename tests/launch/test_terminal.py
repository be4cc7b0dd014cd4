"""Control characters in file names, labels and errors never reach a terminal as they are, whichever command prints."""

from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

from launch import cli
from launch.terminal import Terminal
from tests.synthetic_run import make_store

HOSTILE = "\x1b]0;title\x07a\x1b[2J\x9b31m\u202ecod.exe\x08"


def harmless(text: str) -> bool:
    return not [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")]


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "{}"],
        ["status", "{}"],
        ["report", "{}", "--out", "{}-report"],
        ["annotate", "--results", "{}", "--out", "{}-page"],
        ["agreement", "--human", "{}", "--judge", "{}"],
        ["convert", "{}", "{}-converted"],
        ["pipeline", "--config", "{}"],
        ["extract", "--config", "{}"],
        ["no-such-verb-{}"],
    ],
    ids=lambda words: words[0].split("-")[0],
)
@pytest.mark.parametrize("there", [False, True], ids=["missing", "there"])
def test_hostile_paths_in_errors(words, there, capsys, tmp_path):
    path = tmp_path / HOSTILE
    if there:
        path.mkdir()
        (path / HOSTILE).write_text("x")
    assert cli.main([word.format(path) for word in words]) in (1, 2)
    told = capsys.readouterr()
    assert harmless(told.err + told.out), repr(told)
    assert r"\x1b[2J" in told.err + told.out


def test_hostile_paths_of_sound_and_damaged_runs(capsys, tmp_path):
    store = make_store(tmp_path / f"{HOSTILE}.zarr")
    assert cli.main(["verify", str(store.path)]) == 0
    cli.main(["status", str(store.path)])
    Path(store.path, "sentences.parquet").write_bytes(b"damage")
    assert cli.main(["verify", str(store.path)]) == 1
    assert cli.main(["status", "--json", str(store.path)]) in (0, 1)
    told = capsys.readouterr()
    assert harmless(told.out + told.err)
    assert told.out.count(r"\x1b[2J") >= 3


def test_tables_and_bars_on_a_terminal_keep_their_own_colours_alone():
    for width in (40, 200):
        terminal = Terminal(file=io.StringIO(), force_terminal=True, width=width, color_system="standard", _environ={})
        table = Table("name", title=HOSTILE)
        table.add_row(HOSTILE, style="red")
        terminal.print(table)
        with Progress(TextColumn("{task.description}"), console=terminal, auto_refresh=False) as bar:
            bar.add_task(HOSTILE)
        written = terminal.file.getvalue()
        assert "\x1b[31m" in written
        own = re.compile(r"\x1b\[[0-9;]*[mK]|\x1b\[\?25[lh]|\x1b\[1?[AG]|\r")
        assert harmless(own.sub("", written)), repr(written)
        assert "\x1b[2J" not in written
        assert r"\x1b]0;" in written


def test_words_between_colons_are_no_emoji(capsys):
    assert cli.main(["extract", "--model", "m", "--corpus", "hf:a/b:train:car:x:y", "--out", "o"]) == 2
    said = capsys.readouterr().err
    assert "hf:a/b:train:car:x:y" in said
    assert "hf:allenai/c4:en:train:text" in said
    file = io.StringIO()
    table = Table("hf:a/b:train:text")
    table.add_row("a:car:b")
    Terminal(file=file, width=60).print(table)
    assert ":train:" in file.getvalue()
    assert "a:car:b" in file.getvalue()
