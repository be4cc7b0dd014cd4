"""The worker of an extract run: computes, quantises and writes shards of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from jobs.base import Progress, no_progress
from jobs.continued_stores import CopiedRows
from jobs.model_file import record_or_check_weights
from jobs.prefetching import Prefetcher
from lenscore.contexts.contextual_states import Batch, RowReader
from storage_layouts.embeddings import SINK_RATIO, EmbeddingStore
from storage_layouts.quantize import Encoded, choose_outlier_dims, encode
from storage_layouts.runs import Receipt, RunFolder, Shard

CALIBRATION_ROWS = 512


def _not_first(positions: np.ndarray) -> np.ndarray:
    """Rows that are hardly sinks, for a median norm: from position 2 on; of short texts from 1 on, or all."""
    later = (np.flatnonzero(positions >= least) for least in (2, 1, 0))
    return next(rows for rows in later if len(rows))


def _median_norm(states: Tensor) -> float:
    return float(torch.linalg.vector_norm(states.float(), dim=1).median())


class ExtractWorker:
    """Computes the quantised embeddings of every layer for shards of rows, with one model on one device.

    What other stores hold of them is `copied`; the `reader` is None if that is all.
    """

    def __init__(
        self,
        run: RunFolder,
        store: EmbeddingStore,
        reader: RowReader | None,
        weights_hash: str,
        copied: CopiedRows | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._copied = copied
        self._model_file = record_or_check_weights(run, weights_hash)
        self._plan = run.require_plan()
        self._prefetcher = Prefetcher(self._batches)
        self._latest: int | None = None
        calibrated = copied.calibrate(store) if copied else {}
        self._outlier_dims = calibrated | self._calibrate([x for x in store.layers if x not in calibrated])
        self._sink_norms = {layer: store.sink_norm(layer) for layer in store.layers}
        self._keeps_sinks = SINK_RATIO not in store.attrs

    def _calibrate(self, layers: Sequence[int]) -> dict[int, np.ndarray]:
        """Every worker computes it from the same rows, and uses the outlier dimensions of the first one."""
        if not layers or self._reader is None:
            return {}
        first = self._store.rows_of(self._plan.shard(0)).slice(0, CALIBRATION_ROWS)
        states = self._reader.forward(self._batches_of(first))
        usual = _not_first(first["position"].to_numpy())
        count = self._store.layout.outlier_count
        return {
            layer: self._store.set_outlier_dims(
                layer,
                choose_outlier_dims(states[layer], count, f"layer {layer}"),
                _median_norm(states[layer][usual]),
            )
            for layer in layers
        }

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Compute, quantise on the device, and write the rows of one shard in every layer.

        While the device computes, a thread reads and tokenises the shard that probably comes next; while one layer is
        quantised, others are written.
        """
        batches = self._prefetcher.take(shard)
        self._prefetcher.expect(self._likely_after(shard))
        states = self._reader.forward(batches, progress) if self._reader else {}
        rows = self._store.rows_of(shard) if self._copied else None
        massive: list[Tensor] = []  # read at the end: a GPU goes on meanwhile

        def encoded_layers() -> Iterator[tuple[int, Encoded]]:
            for layer, dims in self._outlier_dims.items():
                where = f"layer {layer}, shard {shard.index}"
                encode_rows = partial(encode, encoding=self._store.encoding, outlier_dims=dims, context=where)
                if self._copied and layer in self._copied.layers:
                    encoded = self._copied.completed(layer, rows, states.pop(layer, None), encode_rows)
                else:
                    encoded = encode_rows(states.pop(layer))
                massive.append(torch.as_tensor(encoded.norm) >= self._sink_norms[layer])
                yield layer, encoded

        files = self._model_file | self._store.write_shard(shard, encoded_layers())
        sinks = shard.first + torch.stack([found.cpu() for found in massive]).any(dim=0).nonzero().flatten()
        facts = {} if self._keeps_sinks else {"sinks": sinks.tolist()}
        return Receipt(shard.index, shard.items, files, facts)

    def _likely_after(self, shard: Shard) -> Shard | None:
        """The shard that probably comes next: workers take every n-th shard, upwards or downwards."""
        step = shard.index - self._latest if self._latest is not None else 1
        self._latest = shard.index
        index = shard.index + step
        return self._plan.shard(index) if 0 <= index < self._plan.shard_count else None

    def _batches(self, shard: Shard) -> list[Batch]:
        rows = self._store.rows_of(shard)
        return self._batches_of(self._copied.computed_rows(rows) if self._copied else rows)

    def _batches_of(self, rows: pa.Table) -> list[Batch]:
        if self._reader is None or not len(rows):
            return []
        ids = rows["sentence_id"].unique().to_pylist()
        return self._reader.batches(rows, dict(zip(ids, self._store.sentence_texts(ids), strict=True)))
