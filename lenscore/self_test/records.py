"""Records of passed self-tests on this machine, by the content of model, processor and code."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers

from lenscore.images.geometry import family_name
from lenscore.models.fingerprints import weights_fingerprint
from lenscore.models.loading import Vlm
from lenscore.self_test.checks import CheckResult, check
from storage_layouts.cache_folder import cache_folder
from storage_layouts.errors import InputError
from storage_layouts.files import canonical_json, make_folder, read_json, write_json

SHIPPED = Path(__file__).parent / "verified_families.json"


@dataclass(frozen=True)
class Record:
    """A passed self-test: its model, version of transformers and results."""

    model: str
    family: str
    transformers: str
    dtype: str
    checks: tuple[CheckResult, ...]


def require_self_test(vlm: Vlm) -> Record:
    """The record of this model's self-test, which is run if there is no record.

    A record is valid for the same weights, dtype, processor, transformers and lenscore code. Raises InputError with the
    family and the failed checks.
    """
    known = _read(_path(vlm))
    if known is not None:
        return known
    checks = check(vlm)
    failed = [f"{result.check} ({result.found})" for result in checks if not result.passed]
    if failed:
        raise InputError(
            f"--model {vlm.name}: the self-test of the {family_name(vlm.model.config)} family failed: "
            f"{'; '.join(failed)}; transformers {transformers.__version__} does not behave as lenscore expects, "
            "so boxes or states would be wrong (--no-self-test with a new --out continues anyway)"
        )
    return keep_record(vlm, checks)


def keep_record(vlm: Vlm, checks: Sequence[CheckResult]) -> Record:
    """Write the record of a self-test, unless a check failed or the folder cannot be written."""
    family, dtype = family_name(vlm.model.config), str(vlm.model.dtype)
    record = Record(vlm.name, family, transformers.__version__, dtype, tuple(checks))
    path = _path(vlm)
    if all(result.passed for result in checks):
        with contextlib.suppress(OSError, InputError):  # no home, or a full or read-only one: tested again next time
            make_folder(path.parent)
            write_json(path, asdict(record))
    return record


@dataclass(frozen=True)
class Shipped:
    """Checks that the tests of lenscore verified on a tiny random model of each family, with this transformers."""

    transformers: str
    checks: dict[str, list[str]]


def shipped_checks() -> Shipped:
    """The record in the package; `python -m tests.verified_families` updates it."""
    return Shipped(**json.loads(SHIPPED.read_text(encoding="utf-8")))


def read_records() -> list[Record]:
    """Every self-test that passed on this machine, by family and model."""
    records = [record for path in sorted(_folder().glob("*.json")) if (record := _read(path))]
    return sorted(records, key=lambda record: (record.family, record.model))


def _read(path: Path) -> Record | None:
    try:
        found = read_json(path)
        return Record(**{**found, "checks": tuple(CheckResult(**result) for result in found["checks"])})
    except (InputError, TypeError, KeyError):
        return None  # missing, or of another version: the test is run again


def _folder() -> Path:
    return cache_folder() / "self-tests"


def _path(vlm: Vlm) -> Path:
    facts: dict[str, Any] = {
        "weights": weights_fingerprint(vlm.model),
        "dtype": str(vlm.model.dtype),
        "processor": hashlib.sha256(
            json.dumps(vlm.processor.to_dict(), sort_keys=True, default=str).encode()
        ).hexdigest(),
        "transformers": transformers.__version__,
        "code": _code_hash(),
    }
    return _folder() / f"{hashlib.sha256(canonical_json(facts)).hexdigest()}.json"


def _code_hash() -> str:
    """A hash of all code of the package, because a check may not pass with other code."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
