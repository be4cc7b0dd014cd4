"""Run folders with odd but well-formed content: every reader answers with one line that names file and field."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.claiming import shards_to_compute
from launch.run_status.reading import status_of
from launch.stage_summary import missing_answers, skipped_images
from storage_layouts.budget import Budget
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError, InputError
from storage_layouts.files import FileDigest, digest_file, json_bytes, write_json
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.shards import files_to_json
from storage_layouts.verification import verify

ODD = st.sampled_from([None, True, -1, 0, 3, 2**70, 1.5, 1e308, "", "x", "paper", [], [1], ["a"], {}, {"bytes": 1}])


@pytest.fixture(scope="module")
def runs(small_runs, tmp_path_factory) -> dict[str, Path]:
    """Copies of small runs, in the middle of the work: a shard failed, one is claimed, a worker lives."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("store", "analyze", "judge"):
        path = folder / name
        shutil.copytree(getattr(small_runs, name), path)
        run = RunFolder.open(path)
        run.receipt_path(1).unlink()
        journal = run.attempt("w1")
        journal.started(run.plan.shard(0))
        journal.finished(0, 1.0, 2, 3)
        run.note_failure(1, "w1", "Traceback\nValueError: x")
        run.beat("w1", shard=1, stale_after=30.0)
        run.take(1, "w2")
        if name == "judge":
            facts = {"outcomes": {"truth": {"yes": 1}}, "unknown_payments": ["key"]}
            facts |= {"asked": {"truth": {"things": 2, "answered": 1, "why": "oops", "unknown": 1}}}
            facts |= {"unreadable": [{"path": "a.png", "reason": "cut off"}]}
            run.write_receipt(dataclasses.replace(run.read_receipt(0), facts=facts))
            budget = Budget(path / "budget")
            budget.set_limit(10)
            budget.hold("w1", 3, 1)
            write_json(path / "terms.json", {"ledger": None})
    return {name: folder / name for name in ("store", "analyze", "judge")}


def read_all(path: Path) -> None:
    """Whatever a command reads of a run that is not complete."""
    run = RunFolder.open(path)
    status_of(path)
    verify(path)
    run.check_sizes(allow_incomplete=True)
    run.attempts_log()
    run.quarantined()
    run.unfinished()
    skipped_images(run)
    missing_answers(run)
    Budget(path / "budget").refresh()
    run.beat("me", stale_after=0.2)
    for _, claim in shards_to_compute(run, "me", 0, 1, 0.2, lambda: False):
        run.drop(claim)
        break
    if run.stage == "extract":
        store = EmbeddingStore.open(path, allow_incomplete=True)
        store.outlier_dims(1)
        store.rows_of(run.plan.shard(0))
    if run.stage == "analyze":
        results = LensResults.open(path, allow_incomplete=True)
        results.results()
        results.store()


def places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """Every field of nested objects and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def changed(value: Any, place: tuple, odd: Any, removed: bool) -> Any:
    if not place:
        return odd
    copy = value.copy()
    if len(place) == 1 and removed:
        del copy[place[0]]
    else:
        copy[place[0]] = changed(value[place[0]], place[1:], odd, removed)
    return copy


@pytest.fixture(scope="module")
def files(runs: dict[str, Path]) -> dict[str, dict[Path, bytes]]:
    """The JSON files of every run with their bytes."""
    found = {}
    for name, path in runs.items():
        logs = [
            file for folder in ("attempts", "heartbeats", "failures", "claims") for file in (path / folder).iterdir()
        ]
        named = [path / "run.json", path / "plan.json", path / "receipts/00000.json"]
        named += [file for pattern in ("terms.json", "budget/*.json") for file in path.glob(pattern)]
        found[name] = {f: f.read_bytes() for f in sorted([*named, *logs, *path.glob("outlier_dims/01.json")])}
    return found


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_odd_content_ends_in_one_line_or_does_no_harm(runs, files, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(runs)))
    path = runs[name]
    for file, original in files[name].items():  # also what the last reader removed, as a claim of a dead worker
        file.write_bytes(original)
    file = data.draw(st.sampled_from(sorted(files[name])))
    before = files[name][file]
    lines = before.splitlines() if file.suffix == ".jsonl" else [before]
    content = json.loads(lines[-1])
    has_checksum = content.pop("crc32", None) is not None
    place = data.draw(st.sampled_from([(), *places(content)]))
    odd = changed(content, place, data.draw(ODD), data.draw(st.booleans()))
    is_sealed = has_checksum and isinstance(odd, dict) and "crc32" not in odd
    lines[-1] = json_bytes(odd) if is_sealed else json.dumps(odd).encode() + b"\n"
    try:
        file.write_bytes(b"\n".join(lines))
        read_all(path)
    except InputError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017
        assert str(path) in str(refusal) or str(path.parent) in str(refusal)  # noqa: PT017
    finally:
        file.write_bytes(before)


CASES: dict[str, tuple[str, Callable[[dict], Any], str]] = {
    "no config": ("run.json", lambda run: run.pop("config"), "run.json: found no field config, expected an object"),
    "no files": ("plan.json", lambda plan: plan.pop("files"), "plan.json: found no field files, expected an object"),
    "items": ("plan.json", lambda plan: plan.update(items=-1), "items = -1, expected a whole number from 0 on"),
    "shards": ("plan.json", lambda plan: plan.update(items=10**18), "expected at most 1000000 shards"),
    "digest": (
        "receipts/00000.json",
        lambda receipt: next(iter(receipt["files"].values())).update(bytes="many"),
        'bytes = "many", expected a whole number from 0 on; delete receipts/00000.json and repeat the command',
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_field_is_named(runs: dict[str, Path], case: str) -> None:
    name, change, message = CASES[case]
    path = runs["analyze"]
    before = (path / name).read_bytes()
    content = json.loads(before)
    del content["crc32"]
    change(content)
    try:
        write_json(path / name, content)
        with pytest.raises(CorruptError) as refused:
            RunFolder.open(path).check_sizes(allow_incomplete=True)
        assert message in str(refused.value)
        found = verify(path).problems
        assert message in " ".join(str(problem) for problem in found)
    finally:
        (path / name).write_bytes(before)


@pytest.mark.parametrize("content", [b"[]", b'{"shard": 1}', b'{"shard": 1, "tries": "3"}'])
def test_an_odd_log_is_named(runs: dict[str, Path], content: bytes) -> None:
    path = runs["store"]
    for name, read in (("heartbeats/w1.json", RunFolder.heartbeats), ("failures/00001.json", RunFolder.failures)):
        before = (path / name).read_bytes()
        (path / name).write_bytes(content)
        with pytest.raises(CorruptError) as refused:
            read(RunFolder.open(path))
        (path / name).write_bytes(before)
        assert str(refused.value).startswith(f"{path / name}: found ")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../../b", "a//b", ".", "", "a\nb", "a\\b", "x" * 999, "\ud800"]
)
def test_a_file_outside_of_the_folder_is_never_looked_at(runs: dict[str, Path], name: str) -> None:
    path = runs["judge"]
    (path.parent / "outside").write_text("of somebody else")
    with pytest.raises(ValueError, match="not a plain path"):
        files_to_json({name: FileDigest(1, "00000000")})
    for file in ("plan.json", "receipts/00000.json"):
        before = (path / file).read_bytes()
        content = json.loads(before)
        del content["crc32"]
        digest = digest_file(path.parent / "outside")
        content["files"][name] = {"bytes": digest.bytes, "crc32": "00000000"}
        try:
            write_json(path / file, content)
            with pytest.raises(CorruptError, match="expected names of files inside the run folder"):
                RunFolder.open(path).check_sizes(allow_incomplete=True)
            told = " ".join(str(problem) for problem in verify(path).problems)
        finally:
            (path / file).write_bytes(before)
        assert "names of files inside the run folder" in told
        assert digest.crc32 not in told
