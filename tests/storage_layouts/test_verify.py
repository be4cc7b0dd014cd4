"""Damage of any kind to any byte of any data file is named by verify and refused by the readers."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError, IncompleteError, InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from storage_layouts.verification import verify

LOGS = {"attempts", "heartbeats"}


def read_all(path: Path) -> None:
    """Everything that the readers can read of a run."""
    stage = RunFolder.open(path).stage
    if stage == "extract":
        store = EmbeddingStore.open(path)
        for layer in store.layers:
            store.outlier_dims(layer)
            store.read_layer(layer)
        store.row_table()
        store.sentences()
    elif stage == "analyze":
        results = LensResults.open(path)
        results.images(), results.geometry(), results.results(), results.token_words()
    else:
        read_verdicts(RunFolder.open(path))


def data_files(path: Path) -> list[Path]:
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in files if file.relative_to(path).parts[0] not in LOGS)


@contextlib.contextmanager
def damaged(file: Path, damage: Callable[[bytes], bytes | None]) -> Iterator[None]:
    data = file.read_bytes()
    broken = damage(data)
    file.unlink() if broken is None else file.write_bytes(broken)
    try:
        yield
    finally:
        file.write_bytes(data)


def assert_noticed(path: Path, file: Path) -> None:
    name = file.relative_to(path).as_posix()
    assert [problem.file for problem in verify(path).problems] == [name]
    with pytest.raises(InputError) as refused:
        read_all(path)
    assert "\n" not in str(refused.value)
    if name.startswith("receipts/") and not file.exists():
        assert isinstance(refused.value, IncompleteError)
    elif name not in ("run.json", "plan.json") or file.exists():
        assert isinstance(refused.value, CorruptError)
        assert name.partition("/part-")[0] in str(refused.value)  # rows/ names the folder


@pytest.mark.parametrize("run", ["store", "analyze", "judge"])
def test_an_undamaged_run_has_no_problem(small_runs, tmp_path: Path, run: str) -> None:
    path = shutil.copytree(getattr(small_runs, run), tmp_path / run)
    (path / "attempts").mkdir(exist_ok=True)
    (path / "attempts" / "w.jsonl").write_text("logs are not data")
    (path / "notes.txt").write_text("nor are the user's own files")
    outcome = verify(path)
    (path / "notes.txt").unlink()
    assert outcome.problems == []
    assert outcome.files == len(data_files(path))
    read_all(path)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(["store", "analyze", "judge"]), st.data())
def test_any_damage_is_named_and_refused(small_runs, run: str, data: st.DataObject) -> None:
    path = getattr(small_runs, run)
    file = data.draw(st.sampled_from(data_files(path)), label="file")
    size = file.stat().st_size
    kind = data.draw(st.sampled_from(["flip", "cut", "delete", "append"]), label="kind")
    place = data.draw(st.integers(0, size - 1), label="place")
    mask = data.draw(st.integers(1, 255), label="mask")
    damages: dict[str, Callable[[bytes], bytes | None]] = {
        "flip": lambda b: b[:place] + bytes([b[place] ^ mask]) + b[place + 1 :],
        "cut": lambda b: b[:place],
        "delete": lambda b: None,
        "append": lambda b: b + bytes([mask]),
    }
    with damaged(file, damages[kind]):
        assert_noticed(path, file)


@pytest.mark.parametrize("run", ["store", "analyze", "judge"])
def test_every_file_can_be_missed_and_found_damaged(small_runs, run: str) -> None:
    path = getattr(small_runs, run)
    for file in data_files(path):
        for damage in (lambda b: None, lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""):
            with damaged(file, damage):
                assert_noticed(path, file)


def test_two_files_of_equal_size_that_changed_places_are_both_named(small_runs) -> None:
    folder = small_runs.store / "layers/codes"
    first, second = folder / "c.0.0.0", folder / "c.0.1.0"
    one, other = first.read_bytes(), second.read_bytes()
    assert len(one) == len(other)
    with damaged(first, lambda _: other), damaged(second, lambda _: one):
        assert [problem.file for problem in verify(small_runs.store).problems] == [
            "layers/codes/c.0.0.0",
            "layers/codes/c.0.1.0",
        ]
        with pytest.raises(CorruptError, match=r"delete receipts/0000\d\.json and repeat the command"):
            EmbeddingStore.open(small_runs.store).read_layer(12)


def test_a_receipt_or_plan_of_another_run_is_refused(small_runs, tmp_path: Path, builders) -> None:
    other = tmp_path / "other.zarr"
    builders.store(other, rows=49)
    for name in ("receipts/00001.json", "plan.json"):
        with damaged(small_runs.store / name, lambda _, name=name: (other / name).read_bytes()):
            assert name in [problem.file for problem in verify(small_runs.store).problems]
            with pytest.raises(CorruptError, match=name):
                EmbeddingStore.open(small_runs.store)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match="not a run folder"):
            verify(path)
