"""A Tuned Lens on disk: the run folder of the stage tune, or a folder of the tuned-lens package.

    config.json    the model: width, number of blocks, name, revision, and a hash of its LM head
    params.pt      torch.save of {"0.weight": [d_model, d_model], "0.bias": [d_model], "1.weight": ...}

That is the layout of tuned-lens 0.2.0 (github.com/AlignmentResearch/tuned-lens). Translator l reads layer l, the
input of block l: its logits are head(norm(h + weight @ h + bias)). A run has the same tensors in the files
translators/part-00000.safetensors and so on, with their checksums in the receipts.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage_layouts.errors import InputError, MissingFileError, first_line
from storage_layouts.fields import FLAG, SIZE, TEXT, Kind, check_fields, optional
from storage_layouts.files import digest_file, parse_json, read_checked, read_json, write_atomic
from storage_layouts.machine_errors import reading
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.runs import RunFolder
from storage_layouts.shards import PLAN_REMEDY, shard_name

if TYPE_CHECKING:
    from torch import Tensor

STAGE = "tune"
CONFIG, PARAMS = "config.json", "params.pt"
LENS_TYPE = "linear_tuned_lens"
SHOWN_WHOLE = 1000
"""NumPy prints only the corners of a larger array."""
_NUMPY_DEFAULTS: Any = {
    **{"edgeitems": 3, "threshold": SHOWN_WHOLE, "linewidth": 75, "suppress": False},
    **{"sign": "-", "floatmode": "maxprec", "formatter": None, "legacy": False},
}
_FIELDS = {
    "base_model_name_or_path": TEXT,
    "d_model": SIZE,
    "num_hidden_layers": SIZE,
    "bias": Kind(FLAG.name, FLAG.fits, optional=True),
    "base_model_revision": optional(TEXT),
    "unembed_hash": optional(TEXT),
    "lens_type": Kind(LENS_TYPE, lambda value: value == LENS_TYPE, optional=True),
}


@dataclass(frozen=True)
class TunedLensConfig:
    """The fields of config.json; see the module docstring."""

    base_model_name_or_path: str
    d_model: int
    num_hidden_layers: int
    bias: bool = True
    base_model_revision: str | None = None
    unembed_hash: str | None = None
    lens_type: str = LENS_TYPE


class TunedLensFiles:
    """A Tuned Lens whose translators are not read yet; `open` one.

    Attributes:
        path: the run, or the folder.
        config: of the model that it was made for.
        weights_hash: of the decoder of that model, if it is a run that is complete.
        identity: what a run that uses it records: its path, and a hash of what defines it.

    """

    def __init__(self, path: Path, config: TunedLensConfig, identity: dict[str, Any], run: RunFolder | None) -> None:
        self.path, self.config, self.identity, self._run = path, config, identity, run
        complete = run is not None and run.is_complete()
        self.weights_hash: str | None = read_json(path / "model.json")["weights_hash"] if complete else None

    @classmethod
    def open(cls, path: Path | str, allow_incomplete: bool = False) -> TunedLensFiles:
        """Open a run of the stage tune, or a folder of the tuned-lens package.

        A run that is not complete (`allow_incomplete`) has no hash of the head yet. Raises InputError if it is neither,
        IncompleteError for an incomplete run, CorruptError for a damaged file.
        """
        path = Path(path).resolve()
        run = require_tuned_lens(path)
        if run is not None:
            if not allow_incomplete:
                run.require_complete()
            facts = run.require_plan().facts
            check_fields(path / "plan.json", facts.get("lens"), _FIELDS, PLAN_REMEDY, "facts.lens")
            head = next((receipt.facts.get("unembed_hash") for receipt in run.receipts()), None)
            config = TunedLensConfig(**facts["lens"], unembed_hash=head)
            return cls(path, config, _identity(path, run.run_id), run)
        config = _read_config(path / CONFIG)
        with reading(path / PARAMS):
            digest = digest_file(path / PARAMS)
        return cls(path, config, _identity(path, digest.crc32, bytes=digest.bytes), None)

    def translators(self) -> list[tuple[Tensor, Tensor]]:
        """Weight [d_model, d_model] and bias [d_model] of layers 0, 1, ..., float32 on the host.

        Raises InputError if one is missing, of another shape or not finite, CorruptError for a damaged file.
        """
        import torch  # heavy, and most uses look at the configuration alone

        tensors = dict(self._params())
        width, found = self.config.d_model, []
        for layer in range(self.config.num_hidden_layers):
            if not self.config.bias:
                tensors.setdefault(f"{layer}.bias", torch.zeros(width))
            pair = []
            for name, shape in ((f"{layer}.weight", (width, width)), (f"{layer}.bias", (width,))):
                tensor = tensors.get(name)
                if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != shape:
                    has = f"shape {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else "no such tensor"
                    raise InputError(f"--tuned {self.path}: {name}: found {has}, expected shape {shape}")
                if not tensor.isfinite().all():
                    raise InputError(f"--tuned {self.path}: {name} holds NaN or infinity; tune it again")
                pair.append(tensor.float())
            found.append((pair[0], pair[1]))
        return found

    def write_folder(self, folder: Path) -> None:
        """Write it as a folder of the tuned-lens package, in float32; equal lenses give equal bytes."""
        import torch

        tensors: dict[str, Tensor] = {}
        for layer, (weight, bias) in enumerate(self.translators()):
            tensors |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
        data = io.BytesIO()
        torch.save(tensors, data)
        write_atomic(folder / PARAMS, data.getvalue())
        config = asdict(self.config) | {"bias": True}
        write_atomic(folder / CONFIG, json.dumps(config, indent=1).encode() + b"\n")

    def _params(self) -> Iterator[tuple[Any, Any]]:
        import safetensors.torch
        import torch

        if self._run is not None:
            for receipt in self._run.receipts():
                name = part(receipt.shard)
                data = read_checked(self.path / name, receipt.files[name], receipt_remedy(receipt.shard))
                yield from safetensors.torch.load(data).items()
            return
        try:
            content = torch.load(self.path / PARAMS, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                f"--tuned {self.path / PARAMS}: not readable as plain tensors ({first_line(error)})"
            ) from None
        if not isinstance(content, dict):
            raise InputError(f"--tuned {self.path / PARAMS}: expected tensors by name, found {type(content).__name__}")
        yield from content.items()


def is_package_folder(path: Path) -> bool:
    """Whether it is a folder of the tuned-lens package, and no run."""
    return (path / CONFIG).is_file() and not (path / "run.json").exists()


def require_tuned_lens(path: Path) -> RunFolder | None:
    """The run in a folder; None for a folder of the tuned-lens package. Raises InputError if it is neither."""
    if (path / "run.json").exists():
        return RunFolder.open(path, STAGE)
    for name in (CONFIG, PARAMS):
        if not (path / name).is_file():
            raise MissingFileError(
                f"--tuned {path}: no {name} in it; expected a run of `lens tune`, or a folder of the tuned-lens "
                f"package with {CONFIG} and {PARAMS}"
            )
    return None


def part(shard: int) -> str:
    """Where in a run the translators of a shard are."""
    return f"translators/part-{shard_name(shard)}.safetensors"


def measures(shard: int) -> str:
    """Where in a run the losses and the evaluation of a shard are."""
    return f"measures/{shard_name(shard)}.json"


def read_measures(run: RunFolder) -> Iterator[dict[str, Any]]:
    """The measures of all shards of a complete run, in their order. CorruptError if a file is damaged."""
    for receipt in run.receipts():
        name, remedy = measures(receipt.shard), receipt_remedy(receipt.shard)
        yield parse_json(run.path / name, read_checked(run.path / name, receipt.files[name], remedy), remedy)


def unembed_hash(head: Tensor, rows: int | None = None) -> str:
    """The hash by which the tuned-lens package recognises an LM head [tokens, dim], or the first `rows` of it.

    It is one of the text that NumPy prints for a matrix: its corners, to one decimal.
    """
    import numpy as np
    import torch

    rows = len(head) if rows is None else rows
    top = 7 + SHOWN_WHOLE // head.shape[1]  # so many that it does not print the corners whole either
    corners = head[:rows] if rows <= top + 6 else torch.cat([head[:top], head[rows - 6 : rows]])
    with np.printoptions(**_NUMPY_DEFAULTS):
        text = np.array_str(corners.detach().float().cpu().numpy(), precision=1)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_config(path: Path) -> TunedLensConfig:
    with reading(path):
        data = path.read_bytes()
    try:
        content = json.loads(data)
    except ValueError as error:
        raise InputError(f"--tuned {path}: no JSON ({error})") from None
    check_fields(path, content, _FIELDS)
    return TunedLensConfig(**{name: content[name] for name in _FIELDS if name in content})


def _identity(path: Path, identity: str, **more: Any) -> dict[str, Any]:
    return {"path": str(path), "id": identity, **more}
