"""Corpora of every format give the same sentences; errors name file and line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from lenscore.contexts.corpus import TextChoice, corpus_files, load_corpus, read_corpus
from storage_layouts.errors import InputError

SENTENCES = ["a red circle", 'she said "hello, you"', "größer als Ω", "two\nlines in one field"]


def write(path: Path, sentences: list[str]) -> Path:
    kind = path.name.split(".", 1)[1].removesuffix(".gz").removesuffix(".zst")
    if kind == "parquet":
        pq.write_table(pa.table({"id": list(range(len(sentences))), "caption": sentences}), path)
        return path
    plain = path.with_name("plain." + kind)
    with plain.open("w", encoding="utf-8", newline="") as stream:
        if kind in ("csv", "tsv"):
            writer = csv.writer(stream, delimiter="," if kind == "csv" else "\t")
            writer.writerow(["id", "Caption"])
            writer.writerows([i, s] for i, s in enumerate(sentences))
        elif kind == "jsonl":
            stream.writelines(json.dumps({"id": i, "text": s}) + "\n" for i, s in enumerate(sentences))
        else:
            stream.writelines(s + "\n" for s in sentences)
    data = plain.read_bytes()
    plain.unlink()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "txt"])
def test_every_text_format(tmp_path, kind, packed):
    sentences = SENTENCES[:3] if kind == "txt" else SENTENCES
    path = write(tmp_path / f"corpus.{kind}{packed}", sentences)
    assert list(read_corpus([path])) == sentences


def test_parquet_and_folder_in_order_of_paths(tmp_path):
    write(tmp_path / "b.parquet", ["from parquet"])
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "deeper" / "c.txt", ["deepest", "", "   ", "last"])
    write(tmp_path / "a.jsonl", ["first"])
    (tmp_path / "notes.md").write_text("no corpus")
    files = corpus_files([tmp_path])
    assert list(read_corpus(files)) == ["first", "from parquet", "deepest", "last"]
    assert load_corpus(tmp_path / "a.jsonl") == ["first"]
    assert load_corpus(["as", "given"]) == ["as", "given"]


def test_tables_without_header_and_with_a_named_column(tmp_path):
    plain = tmp_path / "plain.csv"
    plain.write_text('a dog runs\n"a cat, a dog"\n')
    assert list(read_corpus([plain])) == ["a dog runs", "a cat, a dog"]
    named = tmp_path / "named.csv"
    named.write_text("id,german\n1,ein Hund\n")
    assert list(read_corpus([named], TextChoice("german"))) == ["ein Hund"]
    with pytest.raises(InputError, match=r"named\.csv, line 1: no column 'english'; it has 'id', 'german'"):
        list(read_corpus([named], TextChoice("english")))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("latin.txt", b"fine\nfine too\nna\xefve\n", r"latin\.txt, line 3: not UTF-8 \(byte 0xef at column 3\)"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"\n', r"broken\.jsonl, line 2: not JSON"),
        ("field.jsonl", b'{"words": "a"}\n', r"field\.jsonl, line 1: no column 'text' or .* it has 'words'"),
        ("number.jsonl", b"7\n", r"number\.jsonl, line 1: expected a text, found int"),
        (
            "long.jsonl",
            b'{"text": "a"}\n{"text": ' + b"7" * 5000 + b"}\n",
            r"long\.jsonl, line 2: not readable as JSON",
        ),
        ("cut.txt.gz", gzip.compress(b"many words " * 99, mtime=0)[:-9], r"cut\.txt\.gz: broken or truncated"),
        ("no.txt.zst", b"plain words", r"no\.txt\.zst: broken or truncated"),
        ("no.parquet", b"plain words", r"no\.parquet: not a readable Parquet file"),
    ],
)
def test_unreadable_input_is_one_line_that_names_the_place(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as refusal:
        list(read_corpus([tmp_path / name]))
    assert "\n" not in str(refusal.value)


def test_encoding_errors_can_be_replaced_and_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"\xef\xbb\xbffine\nna\xefve\n")
    assert list(read_corpus([path], TextChoice(encoding_errors="replace"))) == ["fine", "na�ve"]


def test_missing_paths_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        corpus_files([tmp_path / "nowhere.txt"])
    with pytest.raises(InputError, match="no corpus file in this folder"):
        corpus_files([tmp_path])


def test_a_csv_of_load_corpus_gives_its_first_column_as_in_latentlens(tmp_path):
    """Its rule: the first line is left out if it starts like the name of a column."""
    table = tmp_path / "table.csv"
    table.write_text("Captions of images,id\na dog,1\n,2\n  a cat ,3\n", encoding="utf-8")
    assert load_corpus(str(table)) == ["a dog", "a cat"]
    table.write_text("a house,1\na dog,1\n", encoding="utf-8")
    assert load_corpus(table) == ["a house", "a dog"]
