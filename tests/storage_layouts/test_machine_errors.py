"""What the machine cannot read is never called damage, and never leads to advice that deletes it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from launch.exit_codes import exit_code
from launch.verify import main as lens_verify
from lenscore.images.image_files import ImageFile, _fingerprint, open_image
from lenscore.shapes import write_images
from lenscore.viewer.browser_pictures import shown_picture
from lenscore.viewer.scene_truth import truth_of
from storage_layouts.claims import take_claim
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import MachineError
from storage_layouts.failures import read_failure, write_failure
from storage_layouts.files import write_atomic
from storage_layouts.latentlens_files import read_cache
from storage_layouts.processes import is_gone, this_process
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from storage_layouts.verification import verify

CODES = [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EACCES]
BOX = np.array([[0, 0, 1, 1]], np.float32)
NAMES = [errno.errorcode[code] for code in CODES]


@contextlib.contextmanager
def descriptors(free: int) -> Iterator[None]:
    """This process may open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The limit is on the number of a descriptor, and the lowest free number is given.
    probes = [os.open("/", os.O_RDONLY) for _ in range(free + 1)]
    highest = probes[-1]
    for probe in probes:
        os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=CODES, ids=NAMES)
def refused(request, monkeypatch):
    """A set of files, which the machine refuses to open."""
    files: set[Path] = set()
    real = Path.open

    def opened(self: Path, *args, **kwargs):
        if self in files:
            raise OSError(request.param, os.strerror(request.param), str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    return files


def read_all(path: Path) -> None:
    match RunFolder.open(path).stage:
        case "extract":
            store = EmbeddingStore.open(path)
            for layer in store.layers:
                store.outlier_dims(layer), store.read_layer(layer)
            store.row_table(), store.sentences()
        case "analyze":
            results = LensResults.open(path)
            results.images(), results.geometry(), results.results(), results.token_words()
        case "judge":
            read_verdicts(RunFolder.open(path))


@pytest.mark.parametrize("run", ["store", "analyze", "judge"])
def test_a_file_that_the_machine_cannot_read_is_not_called_damaged(small_runs, refused, run: str, request) -> None:
    path = getattr(small_runs, run)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.parent.name != "attempts")
    for file in files[CODES.index(request.node.callspec.params["refused"]) :: len(CODES)]:  # each by one code
        refused.clear()
        refused.add(file)
        outcome = verify(path)
        assert (outcome.problems, [error.file for error in outcome.unread]) == ([], [str(file)])
        with pytest.raises(MachineError) as said:
            read_all(path)
        for message in (str(outcome.unread[0]), str(said.value)):
            assert message.startswith(f"{file}: cannot read: ")
            assert "nothing is known to be damaged" in message
            assert "delete" not in message
            assert "\n" not in message


def test_without_a_descriptor_left_nothing_is_called_damaged(small_runs) -> None:
    store = EmbeddingStore.open(small_runs.store)
    with descriptors(0):
        with pytest.raises(MachineError, match="cannot read: too many open files"):
            verify(small_runs.store)
        with pytest.raises(MachineError, match=r"c\.0\.\d\.0: cannot read: too many open files .*ulimit -n"):
            store.map_layer(1)


def test_a_store_needs_no_descriptor_for_each_mapped_file(tmp_path: Path, builders) -> None:
    builders.store(tmp_path, rows=60, per_shard=1)
    with descriptors(12):
        store = EmbeddingStore.open(tmp_path)
        mapped = {layer: store.map_layer(layer).codes for layer in store.layers}
        assert verify(tmp_path).problems == []
        for layer, codes in mapped.items():
            assert codes.whole().numpy().tobytes() == store.read_layer(layer).codes.tobytes()


def test_mapped_memory_is_given_back(tmp_path: Path, builders) -> None:
    builders.store(tmp_path)
    store = EmbeddingStore.open(tmp_path)

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(f"{tmp_path}/layers")

    layer = store.map_layer(1)
    some = layer.codes[3:5]
    assert mapped() == 3
    del layer
    assert mapped() == 1  # the rows that are still used
    assert some.shape == (2, 24)
    del some
    assert mapped() == 0


def test_a_process_that_cannot_be_looked_at_is_not_called_gone() -> None:
    me = this_process()
    with descriptors(0):
        assert not is_gone(me)
    assert is_gone({**me, "born": "1"})


def test_claims_and_failures_are_not_taken_for_absent(tmp_path: Path, refused, request) -> None:
    claim = take_claim(tmp_path, 3, "w")
    write_failure(tmp_path / "failures", 3, 2, "w", "", "")
    refused.update([claim.path, tmp_path / "failures" / "00003.json"])
    if request.node.callspec.id == "ESTALE":  # as network file systems say "removed meanwhile"
        assert (claim.worker(), read_failure(tmp_path / "failures", 3)) == ("", {})
        return
    with pytest.raises(MachineError, match="cannot read"):
        claim.worker()
    with pytest.raises(MachineError, match="cannot read"):
        read_failure(tmp_path / "failures", 3)


def test_a_cache_that_the_machine_cannot_read_is_not_called_damaged(tmp_path: Path, refused) -> None:
    file = tmp_path / "embeddings_cache.pt"
    file.write_bytes(b"whatever")
    refused.add(file)
    with pytest.raises(MachineError, match="cannot read"):
        read_cache(file)


def test_a_command_prints_the_remedy_and_ends_with_1(small_runs, refused, capsys) -> None:
    file = small_runs.store / "layers/codes/c.0.0.0"
    refused.add(file)
    assert lens_verify([str(small_runs.store)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{file}: cannot read: ")
    assert "files checked, 0 bad, 1 could not be read" in out
    refused.clear()
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    try:
        assert lens_verify([str(small_runs.store)]) == 1
    finally:
        file.write_bytes(data)
    assert "; delete receipts/00000.json and repeat the command\n" in capsys.readouterr().out


def test_a_machine_error_that_nobody_met_before_is_one_line(tmp_path: Path, capsys) -> None:
    def command() -> int:
        with descriptors(0):
            write_atomic(tmp_path / "x", b"")
        return 0

    assert exit_code(command) == 2

    def bare() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    assert exit_code(bare) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "too many open files; raise the limit" in first
    assert second == "error: /data/x: disk full; free some space or choose another folder, then repeat the command"


def test_a_picture_is_neither_gone_nor_unreadable_because_of_the_machine(tmp_path: Path) -> None:
    (file,) = write_images(tmp_path, "test", 1)
    data = file.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    image = ImageFile(file, sha256, len(data), None)
    with descriptors(0):
        for read in (
            lambda: shown_picture(file, sha256),
            lambda: truth_of(file, BOX),
            lambda: open_image(image),
            lambda: _fingerprint(file, None),  # of the planning
        ):
            with pytest.raises(MachineError, match=r"png: cannot read: too many open files"):
                read()
    assert shown_picture(file, sha256) is not None
    assert truth_of(file, BOX) is not None
