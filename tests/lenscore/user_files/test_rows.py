"""Irregular files in every format: truncated, malformed, or not text."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lenscore.contexts.corpus import TextChoice, corpus_files, read_corpus
from lenscore.user_files import text_lines
from lenscore.user_files.notes import Notes
from lenscore.user_files.text_lines import EncodingErrors, Lines
from storage_layouts.errors import InputError

LINES = [f"sentence {i} of {i * 7919 % 1009} words" for i in range(400)]
PLAIN = "".join(line + "\n" for line in LINES).encode()


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as refused:
        list(read_corpus([path]))
    assert "\n" not in str(refused.value)
    assert path.name in str(refused.value)
    return str(refused.value)


def packed(kind: str) -> bytes:
    """The lines as other programs compress them: with and without checksum and size, several frames or members."""
    if kind == "zst":
        return zstandard.ZstdCompressor().compress(PLAIN)
    if kind == "zst, streamed, no checksum":
        stream = zstandard.ZstdCompressor(write_content_size=False, write_checksum=False).compressobj()
        return stream.compress(PLAIN) + stream.flush()
    if kind == "zst, two frames":
        return b"".join(zstandard.ZstdCompressor(write_checksum=True).compress(half) for half in halves())
    if kind == "gz, two members":
        return b"".join(gzip.compress(half, mtime=0) for half in halves())
    program = {"zst, its own program": "zstd", "gz, its own program": "gzip"}[kind]
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    return subprocess.run([program, "-c"], input=PLAIN, capture_output=True, check=True).stdout


def halves() -> tuple[bytes, bytes]:
    return "".join(f"{line}\n" for line in LINES[:200]).encode(), "".join(f"{line}\n" for line in LINES[200:]).encode()


PACKED = ("zst", "zst, streamed, no checksum", "zst, two frames", "zst, its own program")
PACKED += ("gz, two members", "gz, its own program")


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_corpus_is_whole_or_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"corpus.txt.{kind[:3].strip(',')}"
    data = packed(kind)
    path.write_bytes(data)
    assert list(read_corpus([path])) == LINES
    for length in (len(data) * 2 // 3, len(data) - 1, 1, 0):
        path.write_bytes(data[:length])
        assert "broken or truncated compressed file after line" in refusal(path)


ODD = [b"a", "猫".encode(), b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xe7\x8c", codecs.BOM_UTF8, "\u2028\x85".encode()]


@settings(max_examples=60)
@given(
    st.sampled_from(["txt", "txt.gz", "txt.zst"]),
    st.sampled_from(["strict", "replace"]),
    st.lists(st.sampled_from(ODD)).map(b"a\n".join),
    st.integers(1, 20),
)
def test_lines_are_those_of_the_bytes_however_many_are_decoded_together(
    tmp_path_factory, ending: str, errors: EncodingErrors, data: bytes, part_bytes: int
) -> None:
    """And a damaged line is refused by its number, behind the lines before it."""
    pack = {"txt": bytes, "txt.gz": gzip.compress, "txt.zst": zstandard.compress}[ending]
    path = tmp_path_factory.getbasetemp() / f"odd.{ending}"
    path.write_bytes(pack(data))
    expected, found = [], []
    for line in re.findall(rb"[^\n]*\n|[^\n]+$", data.removeprefix(codecs.BOM_UTF8)):
        expected.append((len(expected) + 1, None if b"\0" in line else decoded(line, errors)))
        if expected[-1][1] is None:
            break
    lines = Lines(path, errors)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text_lines, "PART_BYTES", part_bytes)
        try:
            for line in lines:
                found.append((lines.number, line))
        except InputError as refused:
            found.append((int(re.search(r", line (\d+): ", str(refused))[1]), None))
    assert found == expected


def decoded(line: bytes, errors: EncodingErrors) -> str | None:
    try:
        return line.decode("utf-8", errors)
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("ending", ["parquet", "json"])
def test_a_table_without_its_last_third_is_refused(tmp_path: Path, ending: str) -> None:
    frame, path = pd.DataFrame({"text": LINES}), tmp_path / f"corpus.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records")
    assert list(read_corpus([path])) == LINES
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert ("not a readable Parquet file" if ending == "parquet" else "line 1: not JSON") in refusal(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("open.csv", 'id,text\n1,"a dog\n2,a cat\n', "line 2: a quotation mark opens a field and no other closes it"),
        ("behind.csv", 'id,text\n1,"red" car\n', "line 2: text behind the quotation mark that closes a field"),
        ("wide.csv", "path,text\na.png,a red fox,\n", "line 2: 3 fields, but the first line has 2"),
        ("unquoted.csv", "id,text\n3,unquoted, comma in text\n", "line 2: 3 fields, but the first line has 2"),
        ("narrow.tsv", "id\ttext\n1\n", "line 2: 1 fields, but the first line has 2"),
        ("semicolon.csv", "text;label\na dog;1\n", "separated by ';'"),
        ("names.csv", "id,description\n1,a dog\n", "line 1: no column 'text'"),
        ("bare.csv", "A dog, a cat and a bird\n", "line 1: no column 'text'"),
        ("twice.csv", "text,text\na,b\n", "2 columns are named 'text'"),
        ("mac.txt", "one\rtwo\rthree", "line 1: a carriage return inside a line"),
        ("mac.tsv", "text\rtwo\rthree", "line 1: a carriage return inside a line"),
        ("mac.csv", "text\rtwo\rthree", "line 1: a carriage return inside a line"),
        ("mac.jsonl", '{"text": "a"}\r{"text": "b"}', "line 1: not JSON"),
        ("one.tsv", 'text\n"a dog\na cat\n', "line 2: a quotation mark opens a field"),
        ("cut.jsonl", '{"text": "a"}\n{"text": "b', "line 2: not JSON"),
        ("half.jsonl", '{"text": "a"}\n{"text": "b \\ud83d"}\n', r"line 2: half of a character (\ud83d"),
        ("half.json", '[{"text": "a"}, {"text": "b \\ud83d"}]', "entry 2: half of a character"),
        ("object.json", '{"annotations": []}', "entry 1: no column 'text'"),
        ("wide.txt", "a\0b\0", "line 1: holds NUL"),
    ],
)
def test_malformed_input_is_one_line_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert message in refusal(path)


def test_a_tsv_need_not_quote(tmp_path: Path) -> None:
    path = tmp_path / "captions.tsv"
    path.write_text('caption\turl\n"A dog runs\tu1\na cat sits\tu2\n6" pipe\tu3\nthe "red" car\tu4\n"all"\tu5\n')
    assert list(read_corpus([path])) == ['"A dog runs', "a cat sits", '6" pipe', 'the "red" car', "all"]


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('"\t\n,'), max_size=8)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_what_the_csv_module_wrote_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    stream = io.StringIO()
    csv.writer(stream).writerows([["text", "other"], *rows])
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    if texts := [text.strip() for text, _ in rows if text.strip()]:
        assert list(read_corpus([path])) == texts
    else:
        with pytest.raises(InputError, match="holds no sentence"):
            list(read_corpus([path]))


WORDS = ["a dog", None, "", "größer"]


def text_columns() -> dict[str, pa.Array]:
    plain = pa.array(WORDS)
    return {
        "string": plain,
        "large_string": plain.cast(pa.large_string()),
        "string_view": plain.cast(pa.string_view()),
        "dictionary": plain.dictionary_encode(),
        "binary": plain.cast(pa.binary()),
        "list": pa.array([["a dog"], None, [""], ["größer"]]),
    }


@pytest.mark.parametrize("kind", sorted(text_columns()))
def test_text_columns_of_every_type_give_the_same(tmp_path: Path, kind: str) -> None:
    path, notes = tmp_path / "t.parquet", Notes()
    pq.write_table(pa.table({"n": range(4), "text": text_columns()[kind]}), path)
    assert list(read_corpus([path], notes=notes)) == ["a dog", "größer"]
    assert notes.lines() == ["rows without a text, left out: 2 (t.parquet 2)"]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json"])
def test_rows_without_a_text_are_counted_in_every_format(tmp_path: Path, name: str) -> None:
    path, notes = tmp_path / name, Notes()
    frame = pd.DataFrame({"n": range(4), "text": WORDS})
    if name.endswith("sv"):
        frame.to_csv(path, index=False, sep="\t" if name == "t.tsv" else ",")
    else:
        frame.to_json(path, orient="records", lines=name == "t.jsonl")
    assert list(read_corpus([path], notes=notes)) == ["a dog", "größer"]
    assert notes.lines() == [f"rows without a text, left out: 2 ({name} 2)"]


def test_what_a_folder_holds_is_taken_or_counted(tmp_path: Path) -> None:
    """Linked folders are followed, once each; hidden ones, other kinds and pipes are counted."""
    for name in ("elsewhere/b.txt", "folder/a.txt", "folder/.ipynb_checkpoints/a.txt", "folder/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}\n")
    (tmp_path / "folder" / "link").symlink_to("../elsewhere")
    (tmp_path / "folder" / "loop").symlink_to(".")
    subprocess.run(["mkfifo", str(tmp_path / "folder" / "pipe.txt")], check=True)
    notes = Notes()
    files = corpus_files([tmp_path / "folder"], notes)
    assert list(read_corpus(files)) == ["text of folder/a.txt", "text of elsewhere/b.txt"]
    assert sorted(notes.lines()) == [
        "files of other kinds, not taken: 1 (.md 1)",
        "folders met again through a link, not read twice: 1 (loop 1)",
        "hidden files and folders, not taken: 1 (.ipynb_checkpoints 1)",
        "not a regular file, not taken: 1 (pipe.txt 1)",
    ]
    with pytest.raises(InputError, match="not a regular file"):
        corpus_files([tmp_path / "folder" / "pipe.txt"])


def test_half_a_character_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"text": "broken \ud83d emoji"}) + "\n")
    assert list(read_corpus([path], TextChoice(encoding_errors="replace"))) == ["broken � emoji"]
