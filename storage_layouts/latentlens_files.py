"""Cache folders of the latentlens library: contextual embeddings with their words, one PyTorch file per layer.

    metadata.json                    {"layers": [...], "hidden_dim": D}; may be missing
    layer_8/embeddings_cache.pt      {"embeddings": Tensor [N, D], "metadata": [N dicts]}

A dict of the metadata holds token_str, token_id, caption and position. A PyTorch file is a pickle, which can run code
when it is read; here only plain data are accepted. Embeddings are memory-mapped.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from storage_layouts.errors import CorruptError, InputError, MissingFileError, first_line
from storage_layouts.files import make_folder, sync_folder, sync_tree, write_atomic
from storage_layouts.machine_errors import MACHINE_CAUSES, reading, writing
from storage_layouts.plain_pickle import read_plain_file
from storage_layouts.row_tables import ROW_SCHEMA, SENTENCE_SCHEMA

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CACHE_FILE = "embeddings_cache.pt"
METADATA_FILE = "metadata.json"
WORD_COLUMNS = ("row", "token_id", "token", "sentence_id", "position")
"""The columns of the row table that a cache has; it lacks the characters of the tokens."""


@dataclass(frozen=True)
class CacheLayer:
    """One layer of a cache.

    Attributes:
        embeddings: [N, D] in the file's dtype, on the CPU; memory-mapped if the format of the file allows it.
        rows: the columns `WORD_COLUMNS` of the row table of a store.
        sentences: sentence_id (0, 1, 2, ... in the order of the captions) and text.

    """

    embeddings: Tensor
    rows: pa.Table
    sentences: pa.Table


def is_cache(folder: Path | str) -> bool:
    """Whether a folder holds layers of a cache."""
    return any(Path(folder).glob(f"layer_*/{CACHE_FILE}"))


def cache_files(folder: Path | str, layers: Iterable[int] | None = None) -> dict[int, Path]:
    """The file of each layer of a cache folder, ascending; of all or of some layers.

    MissingFileError if it is not a cache, or has no file of a layer that is in ``layers`` or its metadata.json.
    """
    folder = Path(folder)
    found = {}
    for file in folder.glob(f"layer_*/{CACHE_FILE}"):
        number = file.parent.name.removeprefix("layer_")
        if number.isdecimal():
            found[int(number)] = file
    if not found:
        what = "a file, not a folder" if folder.exists() else "no such folder"
        what = f"no layer_*/{CACHE_FILE} in it" if folder.is_dir() else what
        raise MissingFileError(f"{folder}: not a latentlens cache ({what})")
    wanted = sorted(found) if layers is None else sorted({int(layer) for layer in layers})
    listed = listed_layers(folder) if layers is None else []
    for layer in [*wanted, *listed]:
        if layer not in found:
            why = f"{METADATA_FILE} names it, but the file is missing" if layer in listed else "no such layer"
            have = ", ".join(map(str, sorted(found)))
            raise MissingFileError(f"{folder}: layer {layer}: {why}; there are layers {have}")
    return {layer: found[layer] for layer in wanted}


def listed_layers(folder: Path | str) -> list[int]:
    """The layers in the metadata.json of a cache folder; [] if there is no such file."""
    file = Path(folder) / METADATA_FILE
    if not file.exists():
        return []
    try:
        return [int(layer) for layer in json.loads(file.read_bytes())["layers"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{file}: expected {{"layers": [...], "hidden_dim": D}} ({first_line(error)})') from None


def read_cache(file: Path | str) -> CacheLayer:
    """Read a layer of a cache; see `read_caches`."""
    return next(read_caches([file]))


def read_caches(files: Iterable[Path | str]) -> Iterator[CacheLayer]:
    """Read layers of a cache without running code in their pickles; words that all of them have are read once.

    InputError if a file holds other objects than plain data (the message names one), or is not a cache. CorruptError
    if it is not a PyTorch file, or a damaged one.
    """
    known: dict[bytes, Any] = {}
    metadata, words = None, None
    for file in map(Path, files):
        embeddings, found = _content(file, known)
        if words is None or found is not metadata:
            metadata, words = found, words_of(found, str(file))
        yield CacheLayer(embeddings.detach(), *words)


def _content(file: Path, known: dict[bytes, Any]) -> tuple[Tensor, Sequence[Any]]:
    """The embeddings and the metadata of a layer. Errors as in `read_caches`."""
    from torch import Tensor

    content = _load(file, known)
    try:
        embeddings, metadata = content["embeddings"], content["metadata"]
    except (KeyError, TypeError, IndexError):
        raise _not_a_cache(file, content) from None
    if isinstance(embeddings, Tensor) and (unusual := _unusual(embeddings)):
        raise InputError(f"{file}: embeddings: found {unusual}, expected {_USUAL}; {_SAVE_AGAIN}")
    is_table = isinstance(embeddings, Tensor) and embeddings.ndim == 2
    if not is_table or not isinstance(metadata, list | tuple) or len(embeddings) != len(metadata):
        raise _not_a_cache(file, content)
    if not embeddings.numel():
        raise InputError(
            f"{file}: embeddings: found {list(embeddings.shape)}, expected at least one row and one column"
        )
    return embeddings, metadata


def _unusual(tensor: Tensor) -> str:
    """A description of a tensor that is not a dense tensor of floats in memory; "" for one that is."""
    import torch

    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout is not torch.strided:
        return f"a {str(tensor.layout).removeprefix('torch.')} tensor"
    if tensor.is_meta:
        return "a meta tensor, which has no numbers"
    if not tensor.is_floating_point():
        return f"dtype {str(tensor.dtype).removeprefix('torch.')}"
    return ""


_USUAL = "a dense tensor of a floating-point dtype"
_SAVE_AGAIN = "save the file again with such embeddings, or make the cache again from its corpus"


def _not_a_cache(file: Path, content: Any) -> InputError:
    return InputError(f'{file}: expected {{"embeddings": [N, D], "metadata": [N dicts]}}, found {_summary(content)}')


def words_of(metadata: Sequence[Mapping[str, Any]], where: str = "metadata") -> tuple[pa.Table, pa.Table]:
    """The metadata of N rows as tables: rows (`WORD_COLUMNS`) and sentences; missing fields are "" or -1."""
    captions: dict[str, int] = {}
    try:
        columns = {
            "row": np.arange(len(metadata)),
            "token_id": [_whole("token_id", line) for line in metadata],
            "token": [str(line.get("token_str", "")) for line in metadata],
            "sentence_id": [captions.setdefault(str(line.get("caption", "")), len(captions)) for line in metadata],
            "position": [_whole("position", line) for line in metadata],
        }
        schema = pa.schema([ROW_SCHEMA.field(name) for name in WORD_COLUMNS])
        sentences = {"sentence_id": range(len(captions)), "text": list(captions)}
        return pa.table(columns, schema), pa.table(sentences, SENTENCE_SCHEMA)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: text that is not Unicode (a lone surrogate in {error.object[:40]!a}), expected text that UTF-8 "
            "can hold; save the file again without it, or make the cache again from its corpus"
        ) from None
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{where}: expected dicts with token_str, token_id, caption and position ({first_line(error)})"
        ) from None


def _whole(name: str, line: Mapping[str, Any]) -> int:
    """A number of a dict; -1 if it is missing. ValueError for a number that the row table cannot hold."""
    value = line.get(name, -1)
    number = int(value)
    if not isinstance(value, str) and number != value:
        raise ValueError(f"{name}: found {value!r}, expected a whole number")
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{name}: found {number}, expected a number of at most 32 bits")
    return number


def metadata_of(rows: pa.Table, sentences: pa.Table) -> list[dict[str, Any]]:
    """The tables as a list of dicts; the inverse of `words_of`."""
    texts = dict(zip(sentences["sentence_id"].to_pylist(), sentences["text"].to_pylist(), strict=True))
    columns = (rows[name].to_pylist() for name in ("token", "token_id", "sentence_id", "position"))
    return [
        {"token_str": token, "token_id": token_id, "caption": texts[sentence], "position": position}
        for token, token_id, sentence, position in zip(*columns, strict=True)
    ]


def write_cache(
    file: Path | str, blocks: Iterable[Tensor], rows: int, dim: int, dtype: torch.dtype, metadata: list[dict[str, Any]]
) -> None:
    """Write a layer of a cache; the file appears when it is complete.

    Args:
        file: the file to write.
        blocks: the embeddings in blocks [n, D].
        rows: number of rows of all blocks; ValueError if it is wrong.
        dim: width D.
        dtype: of the embeddings in the file.
        metadata: a dict per row.

    Raises:
        InputError: disk full, read-only, and the like.

    """
    import torch

    file = Path(file)
    make_folder(file.parent)
    # torch.save needs the whole tensor, so a mapped one is made; during the write the disk space is needed twice.
    with writing(file), tempfile.TemporaryDirectory(dir=file.parent, prefix=".", suffix=".partial") as aside:
        raw = Path(aside) / "embeddings"
        bytes_needed = rows * dim * dtype.itemsize
        with raw.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, bytes_needed)  # a full disk is an error here, not a signal later
        embeddings = torch.from_file(str(raw), shared=True, size=rows * dim, dtype=dtype).view(rows, dim)
        first = 0
        for block in blocks:
            embeddings[first : first + len(block)] = block.to("cpu", dtype)
            first += len(block)
        if first != rows or len(metadata) != rows:
            raise ValueError(f"{file}: {first} embeddings and {len(metadata)} dicts of {rows} rows")
        whole = Path(aside) / file.name
        torch.save({"embeddings": embeddings, "metadata": metadata}, whole)
        sync_tree([whole])
        whole.replace(file)
        sync_folder(file.parent)


def write_cache_metadata(folder: Path | str, layers: Iterable[int], dim: int) -> None:
    """Write metadata.json, the last file of a complete cache."""
    content = {"layers": sorted(layers), "hidden_dim": dim}
    write_atomic(Path(folder) / METADATA_FILE, json.dumps(content, indent=2).encode())


_SCALAR = np.float64(0).__reduce__()[0]
_PLAIN: list[Any] = [
    *((_SCALAR, f"numpy.{place}.multiarray.scalar") for place in ("_core", "core")),  # of numpy 2 and 1
    np.dtype,
    *{type(np.dtype(code)) for code in "bBhHiIlLqQefd?"},
]
"""What may be built beside what PyTorch allows itself: numpy's numbers."""


def _load(file: Path, known: dict[bytes, Any]) -> Any:
    with reading(file):
        with file.open("rb"):  # an OSError is clearer than the message of torch
            pass
        try:
            return _plain_data(file, known)
        except OSError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            wanted = re.findall(r"\bGLOBAL ([\w.]+)", str(error)) if isinstance(error, UnpicklingError) else []
            if wanted:
                raise InputError(
                    f"{file}: refused, because reading it would run {wanted[0]}, and a cache needs only plain data; "
                    "save it again with embeddings as a tensor and words as dicts of strings and numbers"
                ) from None
            refused = re.search(r"\((\d+)\)\s*$", first_line(error))  # torch appends the system's error number
            if refused and int(refused[1]) in MACHINE_CAUSES:
                raise OSError(int(refused[1]), first_line(error)) from None
            found = f"another format, or damage ({first_line(error)[:100]})"
    raise CorruptError(file, found, "a readable PyTorch file")


def _plain_data(file: Path, known: dict[bytes, Any]) -> Any:
    try:
        return read_plain_file(file, known)
    except OSError:
        raise
    except Exception:  # another kind of file, which torch may know; a damaged one can raise anything
        return _plain_data_by_torch(file)


def _plain_data_by_torch(file: Path) -> Any:
    import torch

    with torch.serialization.safe_globals(_PLAIN):
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(file, map_location="cpu", weights_only=True)  # the format of torch before 1.6


def _summary(content: Any) -> str:
    from torch import Tensor

    if not isinstance(content, dict):
        return type(content).__name__
    parts = []
    for key, value in list(content.items())[:5]:
        size = "" if isinstance(value, Tensor) or not hasattr(value, "__len__") else len(value)
        shape = list(value.shape) if isinstance(value, Tensor) else size
        parts.append(f"{str(key)[:40]}: {type(value).__name__} {shape}".rstrip())
    return "{" + ", ".join(parts) + "}"
