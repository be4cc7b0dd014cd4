"""How much memory a search takes at most; tests/lenscore/index/test_search_memory.py compares it with a real one."""

from __future__ import annotations

from typing import NamedTuple

from lenscore.index.device_shares import PARTS_AT_ONCE
from lenscore.index.error_bounds import EXACT_NUMBERS
from lenscore.index.exact_search import BLOCK, GROUP, MOST_PENDING, QUERIES, QUERIES_TOGETHER
from storage_layouts.layer_reader import READERS
from storage_layouts.store_layout import StoreLayout


class SearchMemory(NamedTuple):
    """Bytes at most; see `search_memory`."""

    codes: int
    tables: int
    search: int

    @property
    def private(self) -> int:
        """Bytes that processes of one machine do not share, and that cannot be read again."""
        return self.tables + self.search


def search_memory(
    layout: StoreLayout, layers: int, queries: int, k: int, limit: int | None = None, threads: int = 1
) -> SearchMemory:
    """Host memory of a search on a CPU, beside the interpreter and its libraries.

    With N rows of D numbers in b bytes and K outlier dimensions, of which a layer file of a shard has U; L layers;
    n queries, of which q = min(n, 256) are multiplied at a time and g = min(n, 8,192) prepared; T threads; and blocks
    of B = max(2^21, 64 D) numbers and R = min(B / D, 8,192) rows:

        codes   = max(min(L N (D b + 4 K + 8), limit), 4 U D b)      in memory; files while they are checked
        tables  = L N (4 K + 8)                                     outliers, scales and norms of all rows
        search  = 4 n D                                             queries
                + n (4 + 52 k)                                      thresholds and best rows, and the result
                + g D (8 + 4 min(L, 16)) + 32 q D                   queries in float64, without outliers, and both made
                + T (7 B + 12 R q)                                  a block, decoded; its scores
                + T (24 + 24 q / D) 2^20                            exact scores
                + 60 x 2^20                                         rows that wait for them

    What is mapped from files (codes) is shared by the processes of a machine, and the kernel takes it back where memory
    is short. On CUDA devices the index is in their memory, and blocks are those of `exact_search.BLOCK`.

    Args:
        layout: of the store.
        layers: number of layers that are searched.
        queries: number of hidden states of a search, in float32.
        k: rows that are found for each.
        limit: bytes of the index that may be in memory; None for all of it.
        threads: of the search.

    Returns:
        The three sums, in bytes.

    """
    width = layout.arrays()["codes"].little_endian.itemsize * layout.dim
    row = 4 * layout.outlier_count + 8
    whole = layers * layout.rows * (width + row)
    checked = READERS * min(layout.rows_per_shard, layout.rows) * width
    numbers, most = BLOCK["cpu"]
    numbers = max(numbers, GROUP * layout.dim)
    rows = min(numbers // layout.dim, most)
    at_a_time, together = min(queries, QUERIES["cpu"]), min(queries, QUERIES_TOGETHER)
    search = (
        queries * (4 * layout.dim + 4 + 52 * k)
        + together * layout.dim * (8 + 4 * min(layers, PARTS_AT_ONCE))
        + 32 * at_a_time * layout.dim
        + threads * (7 * numbers + 12 * rows * at_a_time)
        + threads * EXACT_NUMBERS * (24 + 24 * at_a_time // layout.dim)
        + 60 * MOST_PENDING
    )
    return SearchMemory(max(whole if limit is None else min(whole, limit), checked), layers * layout.rows * row, search)
