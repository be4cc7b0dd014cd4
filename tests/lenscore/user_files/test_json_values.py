"""A JSON file read value by value holds what the json module reads as a whole, wherever its parts in memory end."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lenscore.user_files import json_values as module
from lenscore.user_files.json_values import json_values
from storage_layouts.errors import InputError

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
FILES = st.lists(VALUES, max_size=4) | st.dictionaries(st.text(max_size=4), VALUES, max_size=4)


def as_a_whole(content: Any) -> list[tuple[str | None, int, Any]]:
    if isinstance(content, list):
        return [(None, number, value) for number, value in enumerate(content, start=1)]
    found: list[tuple[str | None, int, Any]] = []
    for key, value in content.items():
        if isinstance(value, list):
            found += [(key, 0, []), *((key, number, one) for number, one in enumerate(value, start=1))]
        else:
            found.append((key, 0, value))
    return found


@given(FILES, st.integers(1, 40), st.sampled_from([None, 0, 2]), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_values_are_those_of_the_json_module(tmp_path, content, chunk, indent, compressed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        path = tmp_path / ("t.json.gz" if compressed else "t.json")
        data = json.dumps(content, indent=indent, ensure_ascii=indent is None).encode()
        path.write_bytes(gzip.compress(data) if compressed else data)
        assert list(json_values(path)) == as_a_whole(content)


@pytest.mark.parametrize("text", ["[1.5, -2e5, 3.25E-7, 0, -0.0, 1e+9]", '{"a": 12.75, "b": [1e3]}'])
def test_a_number_may_lie_on_both_sides_of_the_end_of_a_part(text, tmp_path, monkeypatch):
    (tmp_path / "t.json").write_text(text)
    for chunk in range(1, len(text) + 1):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        assert list(json_values(tmp_path / "t.json")) == as_a_whole(json.loads(text))


BROKEN = [
    "",
    "[1,",
    "[1 2]",
    "[1,]",
    '{"a" 1}',
    '{"a": 1,}',
    "{1: 2}",
    "[1]\n]",
    "[tru]",
    '["a',
    "nul",
    '[\n1,\n"\\x"]',
    "[1,\n  tru]\n\n\n\n\n\n",
]


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize("text", BROKEN)
def test_what_is_not_json_is_refused_with_its_line(text, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(InputError, match=f"t.json, line {expected.value.lineno}: not JSON"):
        list(json_values(tmp_path / "t.json"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'["\xff"]', "line 1 or later: not UTF-8"),
        (b'["\xc3', "not UTF-8"),
        (b"[\n0,\n\0]", "NUL bytes"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "not readable as JSON"),
        (b"3", "JSON of one value"),
    ],
)
def test_other_files_are_refused_in_one_line(data, message, tmp_path):
    (tmp_path / "t.json").write_bytes(data)
    with pytest.raises(InputError, match=message) as refused:
        list(json_values(tmp_path / "t.json"))
    assert "\n" not in str(refused.value)


def test_a_byte_order_mark_is_none_of_the_text(tmp_path):
    (tmp_path / "t.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert list(json_values(tmp_path / "t.json")) == [(None, 1, 1)]


def test_elsewhere_the_same_sign_is_text(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 3)
    (tmp_path / "t.json").write_text('["a\ufeffb"]')
    assert list(json_values(tmp_path / "t.json")) == [(None, 1, "a\ufeffb")]


def test_a_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    entry = json.dumps({"segmentation": [[1.5] * 400]})
    (tmp_path / "t.json").write_text('{"annotations": [' + ", ".join([entry] * 10_000) + "]}")
    size = (tmp_path / "t.json").stat().st_size
    tracemalloc.start()
    assert sum(number > 0 for _, number, _ in json_values(tmp_path / "t.json")) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 20e6
    assert peak < 6e6
