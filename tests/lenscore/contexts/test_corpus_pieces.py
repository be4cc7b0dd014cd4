"""Pieces of a corpus hold what the whole holds, in its order, with its counts and its errors."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenscore.contexts.corpus import FileCounts, TextChoice, corpus_files, read_corpus
from lenscore.contexts.corpus_pieces import piece_bytes_of, read_piece, split_corpus
from lenscore.contexts.named_corpora import absolute_corpus
from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError

lines = st.lists(st.text("ab é\u2028\U0001f600\ufeff\t", max_size=12), max_size=30)


def in_pieces(files, piece_bytes, choice=TextChoice()):  # noqa: B008 - frozen
    counts = [FileCounts() for _ in files]
    texts = []
    for piece in split_corpus(files, piece_bytes):
        found: dict[int, FileCounts] = {}
        texts += read_piece(piece, files, choice, found)
        for file, of_piece in found.items():
            counts[file].add(of_piece)
    notes = Notes()
    for path, count in zip(files, counts, strict=True):
        count.note(path, notes)
    return texts, notes.lines()


def whole(files, choice=None):
    notes = Notes()
    texts = list(read_corpus(files, choice, notes))
    return texts, notes.lines()


@settings(max_examples=150, deadline=None)
@given(lines, lines, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans(), st.integers(1, 90))
def test_pieces_of_text_files_are_the_whole(tmp_path_factory, first, second, end, bom, ends, piece_bytes):
    folder = tmp_path_factory.mktemp("corpus")
    text = end.join(first) + (end if ends else "")
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n\n" for text in ["start", *second]))
    (folder / "c.txt.gz").write_bytes(gzip.compress(text.encode()))
    files = corpus_files([folder])
    assert in_pieces(files, piece_bytes) == whole(files)


def test_linked_files_are_read_by_their_own_names(tmp_path):
    """As in a snapshot of huggingface_hub, whose files are links to blobs without a suffix."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "texts").mkdir()
    rows = "".join(f'"line {i}\nand more"\n' for i in range(3000))
    for name, data in (("a.txt.gz", gzip.compress(rows.encode())), ("b.csv", b"text\n" + rows.encode())):
        (tmp_path / "blobs" / f"{len(data)}").write_bytes(data)
        (tmp_path / "texts" / name).symlink_to(tmp_path / "blobs" / f"{len(data)}")
    links = [tmp_path / "texts" / name for name in ("a.txt.gz", "b.csv")]
    recorded = [absolute_corpus(link) for link in links]
    assert recorded == list(map(str, links))
    (tmp_path / "linked").symlink_to(tmp_path / "texts")
    assert absolute_corpus(tmp_path / "linked" / ".." / "texts") == str(tmp_path / "texts")
    for sources in ([tmp_path / "texts"], recorded):
        files = corpus_files(sources)
        texts, _ = whole(files)
        assert len(texts) == 9000
        assert in_pieces(files, 2000)[0] == texts


def test_pieces_of_tables_are_the_whole(tmp_path):
    texts = [f"sentence {i}" if i % 7 else None for i in range(500)]
    pq.write_table(pa.table({"n": range(500), "caption": texts}), tmp_path / "a.parquet", row_group_size=40)
    objects = [{"text": "first"}, *({"text": f"t {i}"} if i % 3 else {"other": i} for i in range(200))]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(one) + "\n" for one in objects))
    (tmp_path / "c.csv").write_text("text\n" + "".join(f'"line {i}\nand more"\n' for i in range(100)))
    files = corpus_files([tmp_path])
    pieces = split_corpus(files, 2000)
    assert len({one.part for piece in pieces for one in piece if one.file == 0}) > 3
    assert len({one.part for piece in pieces for one in piece if one.file == 1}) > 1
    assert in_pieces(files, 2000) == whole(files)
    assert len(split_corpus(files, 2**30)) == 1


def test_pieces_keep_shares_columns_and_the_filter_of_languages(tmp_path):
    pytest.importorskip("py3langid")
    some = ["the small dog runs home", "der kleine Hund rennt nach Hause", "le petit chien rentre chez lui"]
    (tmp_path / "a.txt").write_text("".join(f"{text} {i}\n" for i in range(60) for text in some))
    (tmp_path / "b.txt").write_text("".join(f"{text} again {i}\n" for i in range(60) for text in some))
    files = corpus_files([f"{tmp_path / 'a.txt'}=0.5", tmp_path / "b.txt"])
    choice = TextChoice(seed=3, language="en")
    texts, notes = whole(files, choice)
    assert 60 < len(texts) < 120
    assert len(notes) == 2
    assert in_pieces(files, 500, choice) == (texts, notes)


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 8])
def test_a_piece_of_several_parts_of_a_file_counts_them_all(tmp_path, groups):
    texts = [f"sentence {i}" if i % 10 else None for i in range(1000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=1000 // groups)
    files = corpus_files([tmp_path])
    size = 4 * (tmp_path / "a.parquet").stat().st_size
    several = 0
    for piece_bytes in (*range(size // 12, size, size // 12), size // 2 - 1):
        pieces = split_corpus(files, piece_bytes)
        several += any(len(piece) > 1 for piece in pieces)
        assert sum(piece_bytes_of(piece, files) for piece in pieces) == pytest.approx(size, abs=20)
        assert in_pieces(files, piece_bytes) == whole(files)
    assert groups != 5 or several


def test_lines_of_bare_texts_before_objects_are_refused_in_pieces_too(tmp_path):
    (tmp_path / "a.jsonl").write_text('"bare"\n' * 100 + '{"other": 1}\n' * 100)
    files = corpus_files([tmp_path])
    with pytest.raises(InputError, match="line 101: no column 'text'"):
        in_pieces(files, 300)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_an_error_in_a_later_piece_names_the_line_of_the_file(tmp_path, name):
    if name == "a.parquet":
        texts = pa.array([b"fine"] * 90 + [b"b\xffd"] + [b"fine"] * 9, pa.binary())
        pq.write_table(pa.table({"text": texts}), tmp_path / name, row_group_size=10)
    else:
        line = b'{"text": "fine"}\n' if name == "a.jsonl" else b"fine\n"
        (tmp_path / name).write_bytes(line * 90 + b'{"text": "b\xffd"}\n' + line * 9)
    files = corpus_files([tmp_path / name])
    with pytest.raises(InputError) as error:
        whole(files)
    assert "91" in str(error.value)
    with pytest.raises(InputError) as in_piece:
        in_pieces(files, 100)
    assert str(in_piece.value) == str(error.value)
