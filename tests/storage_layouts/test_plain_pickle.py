"""The reader of plain pickles against `torch.load(weights_only=True)`, which reads more, but nothing otherwise."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import _weights_only_unpickler

from storage_layouts.latentlens_files import metadata_of, read_cache, read_caches
from storage_layouts.plain_pickle import Global, NotPlainError, read_plain, read_plain_file

NUMBERS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats()
TEXTS = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=6)
PLAIN = st.recursive(
    NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(TEXTS | st.integers(), inner, max_size=4)
        | st.lists(inner, max_size=5).map(tuple)
    ),
    max_leaves=30,
)
WORDS = [
    {"token_str": f"t{i % 9}", "token_id": i % 9, "caption": f"line {i // 4}", "position": i % 4} for i in range(99)
]
"""More than 256 texts and numbers, so both kinds of references are used."""


@settings(max_examples=150, deadline=None)
@given(PLAIN)
@example([WORDS, WORDS[0], [1.5] * 3, 2**31, -1, 255, 256, 65536, -(2**31) - 1, "\ud800", list(range(1001))])
def test_plain_data_are_read_as_they_were_written(value: Any) -> None:
    found = read_plain(pickle.dumps(value, protocol=2))
    assert repr(found) == repr(value)  # also NaN, and the types


def test_what_is_written_twice_is_one_object() -> None:
    found = read_plain(pickle.dumps([WORDS[0], WORDS[0]], protocol=2))
    assert found[0] is found[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_file_is_read_as_torch_reads_it(tmp_path: Path, dtype: torch.dtype) -> None:
    states = torch.randn(600, 3).to(dtype)
    for name, tensor in {"some": states[7 : 7 + len(WORDS)]}.items():
        torch.save({"embeddings": tensor, "metadata": WORDS}, tmp_path / name)
        found, expected = read_plain_file(tmp_path / name), torch.load(tmp_path / name, weights_only=True)
        assert found["metadata"] == expected["metadata"] == WORDS
        assert found["embeddings"].dtype == dtype
        assert torch.equal(found["embeddings"], expected["embeddings"])


def test_equal_pickles_are_built_once_and_each_file_has_its_own_numbers(tmp_path: Path) -> None:
    other = [WORDS[0] | {"position": 5}]
    for name, (number, words) in {"a": (1.0, WORDS), "b": (2.0, WORDS), "c": (3.0, other), "d": (4.0, WORDS)}.items():
        torch.save({"embeddings": torch.full((len(words), 2), number), "metadata": words}, tmp_path / name)
    found = list(read_caches([tmp_path / name for name in "abcd"]))
    for cache, number, words in zip(found, (1.0, 2.0, 3.0, 4.0), (WORDS, WORDS, other, WORDS), strict=True):
        assert cache.embeddings.tolist() == [[number, number]] * len(words)
        assert metadata_of(cache.rows, cache.sentences) == words
    assert found[0].rows is found[1].rows


class Runs:
    """What a pickle must not do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


UNUSUAL = {
    "code": Runs(),
    "bytes": b"x",
    "set": {1},
    "complex": 1j,
    "numpy": np.int64(3),
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "ints": torch.arange(4).view(2, 2),
    "one axis": torch.ones(3),
    "turned": torch.ones(3, 2).T,
    "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    "ordered": OrderedDict(a=Runs()),
    "table": torch.ones(3, 2),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_nothing_else_is_read(tmp_path: Path, kind: str) -> None:
    torch.save({"embeddings": torch.ones(1, 2), "metadata": [UNUSUAL[kind]]}, tmp_path / "file")
    with pytest.raises((NotPlainError, ValueError)):
        read_plain_file(tmp_path / "file")


@pytest.mark.parametrize(
    ("record", "content"), [("constants.pkl", b""), ("byteorder", b"big"), ("data/0", b"12345"), ("data.pkl", b"")]
)
def test_files_of_another_kind_are_not_read(tmp_path: Path, record: str, content: bytes) -> None:
    torch.save({"embeddings": torch.ones(1, 2), "metadata": WORDS}, tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "file") as good, zipfile.ZipFile(tmp_path / "other", "w") as other:
        for info in good.infolist():
            other.writestr(info.filename, content if info.filename == f"file/{record}" else good.read(info))
        if f"file/{record}" not in good.namelist():
            other.writestr(f"file/{record}", content)
    with pytest.raises((NotPlainError, IndexError)):
        read_plain_file(tmp_path / "other")


@settings(max_examples=200, deadline=None)
@given(PLAIN, st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_pickle_is_refused_or_read_as_torch_reads_it(value: Any, at: int, put: bytes, cut: int) -> None:
    data = pickle.dumps(value, protocol=2)
    at %= len(data)
    data = data[:at] + put + data[at + cut :]
    try:
        found = read_plain(data)
    except Exception:  # as the caller does
        return
    assert plain(found)
    try:
        expected = _weights_only_unpickler.load(io.BytesIO(data))
    except Exception:  # of a name that torch does not know, or an order of instructions that nobody writes
        return
    assert repr(found) == repr(expected)


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(plain, (*value, *value.values())))
    if isinstance(value, list | tuple) and not isinstance(value, Global):
        return all(map(plain, value))
    return value is None or type(value) in {bool, int, float, str, Global}


def test_a_usual_cache_is_read_without_torch_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"embeddings": torch.ones(len(WORDS), 2), "metadata": WORDS}, tmp_path / "file")
    monkeypatch.setattr(torch, "load", None)
    found = read_cache(tmp_path / "file")
    assert metadata_of(found.rows, found.sentences) == WORDS
    assert found.embeddings.tolist() == [[1.0, 1.0]] * len(WORDS)
