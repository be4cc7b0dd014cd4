"""Pickles of plain data in the files of `torch.save`, read without the power of a pickle to run code.

`torch.load(weights_only=True)` is as safe, but takes seconds for a hundred thousand dicts. Here is read what
`torch.save` writes for lists, tuples and dicts of strings, numbers, booleans, None, and dense tensors of floats on the
CPU. Every other file is refused, and left to torch.
"""

from __future__ import annotations

import struct
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class NotPlainError(ValueError):
    """A file or pickle holds what this reader does not know; perhaps torch does."""


class Storage(NamedTuple):
    """The numbers of a record `data/KEY` of a file."""

    key: str
    dtype: str
    size: int


class Table(NamedTuple):
    """A tensor [rows, width] of a file, from the number `first` of a storage on."""

    storage: Storage
    first: int
    rows: int
    width: int


class Global(NamedTuple):
    """A name in a pickle. It is compared with known names, never imported or called."""

    module: str
    name: str


_UINT32, _INT32, _DOUBLE = struct.Struct("<I"), struct.Struct("<i"), struct.Struct(">d")
_ORDERED_DICT = Global("collections", "OrderedDict")
_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
_STORAGES = {
    Global("torch", f"{kind}Storage"): dtype
    for kind, dtype in {"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"}.items()
}


def read_plain_file(file: Path, known: dict[bytes, Any] | None = None) -> Any:
    """The content of a file of `torch.save`, with tensors that are memory-mapped.

    `known` are pickles that were read before, and their content, which is not built again for an equal pickle; only the
    last one is kept. Raises NotPlainError, or another error, if the file holds or is anything else; OSError as every
    reading.
    """
    known = {} if known is None else known
    with zipfile.ZipFile(file) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "constants.pkl" in records:
            raise NotPlainError("a program")
        if "byteorder" in records and archive.read(records["byteorder"]) != sys.byteorder.encode():
            raise NotPlainError("numbers of another machine")
        data = archive.read(records["data.pkl"])
    if data not in known:
        known.clear()
        known[data] = read_plain(data)
    content = known[data]
    if type(content) is not dict:
        return content
    return {
        name: _mapped(file, records[f"data/{value.storage.key}"], value) if type(value) is Table else value
        for name, value in content.items()
    }


def _mapped(file: Path, record: zipfile.ZipInfo, table: Table) -> Tensor:
    """The numbers of a table [rows, width], mapped into memory."""
    import torch

    kind: torch.dtype = getattr(torch, table.storage.dtype)
    if record.compress_type != zipfile.ZIP_STORED or record.file_size != table.storage.size * kind.itemsize:
        raise NotPlainError(f"a record of {record.file_size} bytes")
    with file.open("rb") as stream:
        stream.seek(record.header_offset + 26)  # where the header before the data says how long its two texts are
        start = record.header_offset + 30 + sum(struct.unpack("<HH", stream.read(4)))
    whole = torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)
    numbers = whole[start : start + record.file_size].view(kind)
    return numbers[table.first : table.first + table.rows * table.width].view(table.rows, table.width)


def read_plain(data: bytes) -> Any:
    """The content of a pickle in protocol 2; if it is a dict, its values may be tables.

    Raises NotPlainError for an instruction or a name that plain data do not need, or a tensor elsewhere; an exception
    of another kind for a damaged pickle.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages = 0
    at = 0

    def since_mark() -> list[Any]:
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    while True:
        code = data[at]
        at += 1
        match code:  # the frequent ones first
            case 0x68:  # BINGET
                stack.append(memo[data[at]])
                at += 1
            case 0x72:  # LONG_BINPUT
                memo[_UINT32.unpack_from(data, at)[0]] = stack[-1]
                at += 4
            case 0x58:  # BINUNICODE
                start = at + 4
                at = start + _UINT32.unpack_from(data, at)[0]
                stack.append(data[start:at].decode("utf-8", "surrogatepass"))
            case 0x4B:  # BININT1
                stack.append(data[at])
                at += 1
            case 0x4D:  # BININT2
                stack.append(data[at] + 256 * data[at + 1])
                at += 2
            case 0x28:  # MARK
                marks.append(len(stack))
            case 0x7D:  # EMPTY_DICT
                stack.append({})
            case 0x75:  # SETITEMS
                mark = marks.pop()
                _expect(stack[mark - 1], dict).update(zip(stack[mark::2], stack[mark + 1 :: 2], strict=True))
                del stack[mark:]
            case 0x4A:  # BININT
                stack.append(_INT32.unpack_from(data, at)[0])
                at += 4
            case 0x6A:  # LONG_BINGET
                stack.append(memo[_UINT32.unpack_from(data, at)[0]])
                at += 4
            case 0x71:  # BINPUT
                memo[data[at]] = stack[-1]
                at += 1
            case 0x47:  # BINFLOAT
                stack.append(_DOUBLE.unpack_from(data, at)[0])
                at += 8
            case 0x8A:  # LONG1
                start = at + 1
                at = start + data[at]
                stack.append(int.from_bytes(data[start:at], "little", signed=True))
            case 0x73:  # SETITEM
                value, key = stack.pop(), stack.pop()
                _expect(stack[-1], dict)[key] = value
            case 0x65:  # APPENDS
                items = since_mark()
                _expect(stack[-1], list).extend(items)
            case 0x61:  # APPEND
                value = stack.pop()
                _expect(stack[-1], list).append(value)
            case 0x5D:  # EMPTY_LIST
                stack.append([])
            case 0x29:  # EMPTY_TUPLE
                stack.append(())
            case 0x74:  # TUPLE
                stack.append(tuple(since_mark()))
            case 0x85 | 0x86 | 0x87:  # TUPLE1, TUPLE2, TUPLE3
                items = [stack.pop() for _ in range(code - 0x84)]
                stack.append(tuple(reversed(items)))
            case 0x4E | 0x88 | 0x89:  # NONE, NEWTRUE, NEWFALSE
                stack.append({0x4E: None, 0x88: True, 0x89: False}[code])
            case 0x63:  # GLOBAL
                module, name, _ = data[at : at + 200].split(b"\n", 2)
                at += len(module) + len(name) + 2
                stack.append(_known(Global(module.decode("ascii"), name.decode("ascii"))))
            case 0x51:  # BINPERSID
                kind, dtype, key, place, size = stack.pop()
                if (kind, place) != ("storage", "cpu") or dtype not in _STORAGES:
                    raise NotPlainError(f"a {dtype} on {place}")
                stack.append(Storage(key, _STORAGES[dtype], size))
                storages += 1
            case 0x52:  # REDUCE
                arguments, called = stack.pop(), stack.pop()
                stack.append(_made(called, arguments))
            case 0x80:  # PROTO
                if data[at] != 2:
                    raise NotPlainError(f"protocol {data[at]}")
                at += 1
            case 0x2E:  # STOP
                (value,) = stack
                tables = {id(one) for one in value.values() if type(one) is Table} if type(value) is dict else ()
                if len(tables) != storages:
                    raise NotPlainError("a tensor among other values")
                return value
            case _:
                raise NotPlainError(f"instruction {code:#x}")


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise NotPlainError(f"items for a {type(value).__name__}")
    return value


def _known(name: Global) -> Global:
    if name not in (_ORDERED_DICT, _TENSOR, *_STORAGES):
        raise NotPlainError(f"the name {name.module}.{name.name}")
    return name


def _made(called: Any, arguments: Any) -> Any:
    """A table of a storage, or the empty dict of a tensor's hooks."""
    if called == _ORDERED_DICT and arguments == ():
        return {}
    if called != _TENSOR:
        raise NotPlainError(f"a call of {called}")
    storage, first, (rows, width), strides, _, _ = arguments
    if type(storage) is not Storage or strides != (width, 1) or min(first, rows, width) < 0:
        raise NotPlainError("a tensor whose rows do not follow one another")
    return Table(storage, first, rows, width)
