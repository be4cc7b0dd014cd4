"""Rows of earlier stores, for a store that continues them: where they are, and their embeddings, which are copied.

Sentences keep their numbers, to which each store but the first adds those of the stores before it, as if all corpora
had been read one after the other. So sentence and position say which row of which store a row is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError, InputError, naming_store
from storage_layouts.quantize import Encoded, joined, with_more_outliers
from storage_layouts.shards import PLAN_REMEDY, Plan


class AddedStores:
    """The rows of stores of one model, with equal layers and encodings.

    Args:
        stores: of which the first decides what an attention sink is.
        first_sentences: number of the first sentence of each store in the new one.

    """

    def __init__(self, stores: Sequence[EmbeddingStore], first_sentences: Sequence[int]) -> None:
        self.layers, self.encoding = stores[0].layers, stores[0].encoding
        self._stores, self._first_sentences = stores, np.asarray(first_sentences, np.int64)
        self._keys, dims = [], []
        for store in stores:
            with naming_store(store.path):
                self._keys.append(row_keys(store.row_table(["sentence_id", "position"]), store.path))
                dims.append({layer: store.outlier_dims(layer) for layer in self.layers})
        unions = {layer: np.unique(np.concatenate([of_store[layer] for of_store in dims])) for layer in self.layers}
        self.outlier_count = max(map(len, unions.values()))
        self._outlier_dims = {layer: _filled_up(dims, self.outlier_count) for layer, dims in unions.items()}

    def outlier_dims(self, layer: int) -> np.ndarray:
        """The outlier dimensions of a layer, int32 [K] ascending: those of all stores, filled up to `outlier_count`."""
        return self._outlier_dims[layer]

    def sink_norm(self, layer: int) -> float:
        """As `EmbeddingStore.sink_norm` of the first store."""
        with naming_store(self._stores[0].path):
            return self._stores[0].sink_norm(layer)

    def read(self, layer: int, rows: pa.Table) -> Encoded:
        """Rows of the new store's row table that are in the stores, as numpy arrays, for `outlier_dims`.

        At most one shard of one layer of a store is in memory besides. Errors as in `EmbeddingStore.read_rows`.
        """
        parts = []
        for store, places in self._places(rows):
            with naming_store(store.path):
                own = store.outlier_dims(layer)
                for encoded in _read(store, layer, places):
                    parts.append(with_more_outliers(encoded, self.encoding, own, self._outlier_dims[layer]))
        return joined(parts)

    def _places(self, rows: pa.Table) -> list[tuple[EmbeddingStore, np.ndarray]]:
        """The stores that hold the rows, and there the numbers of these, all in the order of the rows."""
        sentence, position = rows["sentence_id"].to_numpy(), rows["position"].to_numpy()
        owner = np.searchsorted(self._first_sentences, sentence, side="right") - 1
        asked = (sentence - self._first_sentences[owner]) << 24 | position
        found = []
        for index in np.unique(owner).tolist():
            keys, wanted = self._keys[index], asked[owner == index]
            places = np.searchsorted(keys, wanted)
            if not np.array_equal(keys[np.minimum(places, len(keys) - 1)], wanted):
                path = self._stores[index].path
                raise InputError(f"{path}: another store than when the run was planned; put that store back")
            found.append((self._stores[index], places))
        return found


def row_keys(rows: pa.Table, where: object) -> np.ndarray:
    """Number of each row's place in the corpus, int64 [N] ascending: sentences of less than 2^24 tokens.

    CorruptError, naming the store ``where``, if the rows are not in this order.
    """
    keys: np.ndarray = rows["sentence_id"].to_numpy() << 24 | rows["position"].to_numpy()
    if (np.diff(keys) <= 0).any():
        raise CorruptError(where, "rows in another order", "the order of the corpus", PLAN_REMEDY)
    return keys


def _read(store: EmbeddingStore, layer: int, rows: np.ndarray) -> list[Encoded]:
    """Some rows of a layer, ascending, in one part for each shard."""
    plan = Plan(store.rows, store.layout.rows_per_shard)
    parts = []
    for index in np.unique(rows // plan.items_per_shard).tolist():
        shard = plan.shard(index)
        here = rows[(rows >= shard.first) & (rows < shard.stop)] - shard.first
        parts.append(store.read_rows(layer, shard.first, shard.stop).take(here))
    return parts


def _filled_up(dims: np.ndarray, count: int) -> np.ndarray:
    """The dimensions, and the first of the others that make them `count`: any may be an outlier."""
    others = np.setdiff1d(np.arange(len(dims) + count), dims)
    return np.sort(np.concatenate([dims, others[: count - len(dims)]])).astype(np.int32)
