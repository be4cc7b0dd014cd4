"""Where the rows of an index are searched: on one device or on several, in their memory or streamed through it.

Layers are cut into parts, ranges of rows. Each device has a share of the parts, those that fit into its memory at all
times, the others one after the other in each search, while the next one is read. Scores are exact and their order is
that of (score, layer, row), so results do not depend on any of this, to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from lenscore.index.exact_search import top_rows
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.single_threaded import on_own_threads
from lenscore.index.topk import TopK, merge
from storage_layouts.errors import InputError
from storage_layouts.free_memory import available_bytes

ROOM_FOR_SEARCH = 4 * 2**30
"""Bytes left free on a CUDA device that holds an index: for blocks, hidden states, the forward pass."""

PART_BYTES = 2**28
"""Most bytes of a part; the search of one takes far longer than to begin with the next."""

STREAMED_PARTS = 3
"""Parts in memory at a time that are streamed: the last one, the one that is searched, the one that is read."""

PARTS_AT_ONCE = 16
"""Parts that are searched at once on a CPU, so that its threads wait for each other less often."""

Part = tuple[int, QuantizedLayer]
"""The contextual layer, and rows of it."""


def room_on(devices: Sequence[torch.device], limit: int | None = None) -> int:
    """Bytes of an index that each of some devices may hold: `limit`, or what is free on the fullest of them."""
    return min(_free_bytes(device) // devices.count(device) for device in devices) if limit is None else limit


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return max(0, int(torch.cuda.mem_get_info(device)[0]) - ROOM_FOR_SEARCH)
    return available_bytes() * 3 // 4


@dataclass(frozen=True)
class DeviceShare:
    """The parts that one device searches: `resident` ones in its memory, `streamed` ones in host memory or files."""

    device: torch.device
    resident: tuple[Part, ...]
    streamed: tuple[Part, ...] = ()

    def batches(self, layers: Collection[int]) -> Iterator[list[Part]]:
        """The parts of some layers, those together that are searched at once; the next streamed one is read ahead."""
        resident = [part for part in self.resident if part[0] in layers]
        together = PARTS_AT_ONCE if self.device.type == "cpu" else 1
        yield from (resident[first : first + together] for first in range(0, len(resident), together))
        yield from ([part] for part in _streamed([part for part in self.streamed if part[0] in layers], self.device))

    def candidates(self, layers: Collection[int]) -> int:
        """Number of rows of some layers that a search may find here."""
        return sum(codes.candidates for layer, codes in (*self.resident, *self.streamed) if layer in layers)


def shares_of(
    layers: Mapping[int, QuantizedLayer], devices: Sequence[torch.device], limit: int | None = None
) -> list[DeviceShare]:
    """Divide layers, which are in host memory, mapped from files, or on the only device, among devices.

    Args:
        layers: by number.
        devices: where to search; the same one may occur several times.
        limit: bytes of the index that each may hold; None for what is free (`room_on`).

    Returns:
        As many shares as devices. Parts that are resident on a CUDA device have been copied to it.

    Raises:
        InputError: if not even single parts fit.

    """
    limit = room_on(devices, limit)
    total = sum(codes.bytes for codes in layers.values())
    if len(devices) == 1 and (total <= limit or all(codes.device == devices[0] != _CPU for codes in layers.values())):
        return [DeviceShare(devices[0], tuple((layer, codes.to(devices[0])) for layer, codes in layers.items()))]
    most = min(PART_BYTES, limit // (2 * STREAMED_PARTS), -(-total // (8 * len(devices))))
    parts = [(layer, part) for layer, codes in layers.items() for part in _parts(codes, most)]
    largest = max(part.bytes for _, part in parts)
    shares = []
    for number, device in enumerate(devices):
        mine = parts[number :: len(devices)]  # also balanced for a search of one layer
        whole = sum(part.bytes for _, part in mine) <= limit
        if not whole and limit < STREAMED_PARTS * largest:
            raise InputError(
                f"--index-memory: found {limit:,} bytes for {device}, expected at least {STREAMED_PARTS * largest:,}, "
                f"for {STREAMED_PARTS} parts of the rows; leave it out to take what is free"
            )
        shares.append(_share(device, mine, limit if whole else limit - STREAMED_PARTS * largest))
    return shares


def _parts(codes: QuantizedLayer, most: int) -> Iterator[QuantizedLayer]:
    """A layer in ranges of rows of at most `most` bytes each, or of as few rows as can be."""
    step = codes.row_step
    rows = max(step, most * len(codes) // codes.bytes // step * step)
    for first in range(0, len(codes), rows):
        yield codes.between(first, min(first + rows, len(codes)))


def _share(device: torch.device, parts: list[Part], room: int) -> DeviceShare:
    """The first parts are resident, as far as there is room."""
    resident: list[Part] = []
    for layer, codes in parts:
        room -= codes.bytes
        if room < 0:
            break
        resident.append((layer, _on_device(codes, device)))
    return DeviceShare(device, tuple(resident), tuple(parts[len(resident) :]))


def _on_device(codes: QuantizedLayer, device: torch.device) -> QuantizedLayer:
    """Rows in the memory of a device."""
    codes.load()
    if device.type != "cuda":
        return codes.to(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):  # beside the search; the copy has ended when `to` returns
        moved = codes.pinned().to(device)
    codes.let_go()
    return moved


def _streamed(parts: Sequence[Part], device: torch.device) -> Iterator[Part]:
    """Parts in the memory of a device, one after the other; the next one is read in the background."""
    with ThreadPoolExecutor(1) as pool:
        coming: Future[QuantizedLayer] | None = None
        for number, (layer, codes) in enumerate(parts):
            ready = coming or pool.submit(_on_device, codes, device)
            coming = pool.submit(_on_device, parts[number + 1][1], device) if number + 1 < len(parts) else None
            moved = ready.result()
            if device.type == "cuda":
                for part in vars(moved.encoded).values():
                    part.record_stream(torch.cuda.current_stream(device))  # it was allocated on that of the copy
            yield layer, moved
            codes.let_go()


def top_of_shares(queries: Tensor, shares: Sequence[DeviceShare], k: int, layers: Collection[int]) -> TopK:
    """The k nearest rows of some layers over all shares, on the device of the first; see `exact_search.top_rows`."""
    found: dict[int, TopK] = {}

    def work(tasks: Iterable[tuple[int, DeviceShare]]) -> None:
        for number, share in tasks:
            if most := min(k, share.candidates(layers)):
                found[number] = top_rows(queries.to(share.device), share.batches(layers), most)

    tasks = list(enumerate(shares))
    on_own_threads(work, tasks, len(tasks))
    parts = [TopK(*(part.to(shares[0].device) for part in top)) for _, top in sorted(found.items())]
    return parts[0] if len(parts) == 1 else merge(parts, k)


_CPU = torch.device("cpu")
