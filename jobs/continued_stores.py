"""The stores that `lens extract --add` and `lens merge` continue: compared, planned, and copied from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from jobs.extract_settings import ExtractSettings, require_chosen_by_hash
from jobs.model_file import WEIGHTS_REMEDY
from lenscore.contexts.context_table import RowTable
from lenscore.contexts.joined_tables import join_tables
from lenscore.contexts.named_corpora import named_of
from lenscore.contexts.row_choice import RowChoice
from storage_layouts.added_stores import AddedStores
from storage_layouts.counts import counted, share
from storage_layouts.embeddings import SINK_RATIO, EmbeddingStore
from storage_layouts.errors import InputError, naming_store
from storage_layouts.fields import COUNT, OBJECT, TEXT, check_fields, list_of, optional
from storage_layouts.files import read_json
from storage_layouts.quantize import Encoded, joined
from storage_layouts.runs import RunFolder
from storage_layouts.shards import PLAN_REMEDY

EQUAL = ("per_token", "sampling", "seed", "positions", "causal", "max_tokens", "leave_out", "keep_sinks")
EQUAL_STATES = ("encoding", "dtype", "quantization")
"""Settings that decide which contexts become rows, and what is stored of each: equal in all stores."""


def open_stores(settings: ExtractSettings, allow_incomplete: bool = False) -> list[EmbeddingStore]:
    """The stores of --add. InputError for one that was not made by extract; errors as in `EmbeddingStore.open`."""
    stores = []
    for path in settings.add:
        with naming_store(path):
            stores.append(EmbeddingStore.open(path.resolve(), allow_incomplete))
        require_chosen_by_hash(stores[-1].run)
    return stores


def recorded_stores(stores: Sequence[EmbeddingStore]) -> list[dict[str, Any]]:
    """What run.json says of stores that a run continues: their runs, and the commits of the datasets that they hold."""
    found = []
    for store in stores:
        named = _named_corpora(store)
        found.append({"path": str(store.path), "run_id": store.run.run_id, **({"named": named} if named else {})})
    return found


def _named_corpora(store: EmbeddingStore) -> list[dict[str, Any]]:
    """What a store's run.json says of the corpora by name of which it has sentences, those of its own stores first."""
    inputs, found = store.run.inputs, []
    with naming_store(store.path):
        check_fields(store.path / "run.json", inputs, {"stores": optional(list_of(OBJECT))}, within="inputs")
        for described in (*(inputs.get("stores") or []), inputs.get("corpus")):
            found += [one for one in named_of(store.run, described) if one not in found]
    return found


def stores_of(run: RunFolder, settings: ExtractSettings) -> list[EmbeddingStore]:
    """The stores with which a run began, complete. InputError if one was replaced by another."""
    stores = open_stores(settings)
    for store, began in zip(stores, run.inputs["stores"], strict=True):
        if store.run.run_id != began["run_id"]:
            raise InputError(
                f"{store.path}: found the store of run {store.run.run_id}, but {run.path} began with "
                f"{began['run_id']}; put that store back, or choose a new --out"
            )
    return stores


def require_alike(settings: ExtractSettings, stores: Sequence[EmbeddingStore], tokenizer_hash: str) -> None:
    """Raises InputError, naming what differs, unless the stores are of one model, with these settings."""
    first, *others = stores
    for name, found in _own(first).items():
        if getattr(settings, name) != found:
            raise InputError(
                f"--{name.replace('_', '-')}: found {getattr(settings, name)!r}, but {first.path} was made with "
                f"{found!r}; leave the flag out, or make a store from the start"
            )
    if first.attrs["tokenizer_hash"] != tokenizer_hash:
        raise InputError(
            f"--model {settings.model}: has tokenizer {tokenizer_hash[:12]}, but {first.path} was made with "
            f"{first.attrs['tokenizer_hash'][:12]}; expected the model of the store"
        )
    expected = _described(first)
    met = {first.run.run_id}
    for store in others:
        if store.run.run_id in met:
            raise InputError(f"{store.path}: given twice, or a copy of another store; expected different ones")
        met.add(store.run.run_id)
        found = _described(store)
        if different := [name for name in expected if found.get(name, expected[name]) != expected[name]]:
            pairs = ", ".join(f"{name} {found[name]} and not {expected[name]}" for name in different)
            raise InputError(
                f"{store.path}: differs from {first.path}: {pairs}; expected stores of one model and equal settings"
            )


def weights_of(store: EmbeddingStore) -> str:
    """The hash of the weights of a store's model."""
    with naming_store(store.path):
        content = read_json(store.path / "model.json", WEIGHTS_REMEDY)
        check_fields(store.path / "model.json", content, {"weights_hash": TEXT}, WEIGHTS_REMEDY)
    return str(content["weights_hash"])


def _own(store: EmbeddingStore) -> dict[str, Any]:
    defaults = {field.name: field.default for field in dataclasses.fields(ExtractSettings)}
    return {name: store.run.config.get(name, defaults[name]) for name in (*EQUAL, *EQUAL_STATES)}


def _described(store: EmbeddingStore) -> dict[str, Any]:
    """What has to be equal in all stores, in words; without the weights while no worker of a store has loaded them."""
    own = _own(store) | {SINK_RATIO: store.attrs.get(SINK_RATIO)}
    hashes = {"tokenizer": str(store.attrs["tokenizer_hash"])[:12]}
    if (store.path / "model.json").exists():
        hashes["weights"] = weights_of(store)[:12]
    return hashes | {"layers": ",".join(map(str, store.layers)), "width": store.dim} | own


@dataclass(frozen=True)
class Joined:
    """What a store takes over from others: its row table, facts and notes for its plan, what its layout follows."""

    table: RowTable
    facts: dict[str, Any]
    notes: list[str]
    outlier_count: int
    corpus_hash: str
    sink_ratio: dict[str, Any]


def join_with_stores(
    stores: Sequence[EmbeddingStore], added: RowTable | None, tokenizer: Any, choice: RowChoice, corpus_hash: str
) -> Joined:
    """Join the rows of complete stores with those that were chosen of a corpus, if there is one."""
    parts = [_table_of(store) for store in stores]
    table, starts = join_tables([*parts, *([added] if added else [])], tokenizer, choice)
    sentences = table.rows["sentence_id"].to_numpy()
    copied = int((sentences < starts[-1]).sum()) if added else len(sentences)
    names = ", ".join(store.path.name for store in stores)
    note = f"copied: {share(copied, sum(store.rows for store in stores), 'row')} of {names}"
    if added:
        note += f"; new: {counted(len(sentences) - copied, 'row')} of --corpus"
    hashes = [str(store.attrs.get("corpus_hash")) for store in stores] + ([corpus_hash] if added else [])
    attrs = stores[0].attrs
    return Joined(
        table,
        {"first_sentences": starts[: len(stores)], "copied_rows": copied},
        [note],
        AddedStores(stores, starts).outlier_count,
        hashlib.sha256("".join(hashes).encode()).hexdigest(),
        {SINK_RATIO: attrs[SINK_RATIO]} if SINK_RATIO in attrs else {},
    )


def _table_of(store: EmbeddingStore) -> RowTable:
    kinds = {"sentences_read": COUNT, "contexts_seen": COUNT}
    with naming_store(store.path):
        facts = store.run.require_plan().facts
        check_fields(store.path / "plan.json", facts, kinds, PLAN_REMEDY, "facts")
        table, sentences = store.row_table(), store.sentences()
    counts = facts["sentences_read"], facts["contexts_seen"], facts.get("sentences_cut", 0)  # old stores lack the last
    return RowTable(table, sentences, *counts)


class CopiedRows:
    """The rows and layers of a store that are copied from others; the first rows are.

    Attributes:
        stores: that they are copied from.
        layers: that are copied; all rows of other layers are computed.
        weights_hash: of the model of the stores.

    """

    def __init__(self, run: RunFolder, stores: Sequence[EmbeddingStore], layers: Sequence[int]) -> None:
        facts, kinds = run.require_plan().facts, {"first_sentences": list_of(COUNT), "copied_rows": COUNT}
        check_fields(run.path / "plan.json", facts, kinds, PLAN_REMEDY, "facts")
        self.stores = AddedStores(stores, facts["first_sentences"])
        self.layers = self.stores.layers
        self.weights_hash = weights_of(stores[0])
        self._rows = facts["copied_rows"]
        self._new_layers = [layer for layer in layers if layer not in self.layers]
        self._any_new_row = self._rows < run.require_plan().items

    def computed_layers(self, layers: Sequence[int]) -> list[int]:
        """The layers of which any row is computed."""
        return list(layers) if self._any_new_row else self._new_layers

    def computed_rows(self, rows: pa.Table) -> pa.Table:
        """The rows, among some of the row table, of which any layer is computed."""
        return rows if self._new_layers else rows.slice(self._copied(rows))

    def calibrate(self, store: EmbeddingStore) -> dict[int, np.ndarray]:
        """Give the copied layers of the store the outlier dimensions and sinks of the stores; returns the former."""
        return {
            layer: store.take_calibration(layer, self.stores.outlier_dims(layer), self.stores.sink_norm(layer))
            for layer in self.layers
        }

    def completed(
        self, layer: int, rows: pa.Table, states: Tensor | None, encode: Callable[[Tensor], Encoded]
    ) -> Encoded:
        """The rows of a layer that is copied, with the encoded states of `computed_rows` (None without any)."""
        copied = self._copied(rows)
        parts = [self.stores.read(layer, rows.slice(0, copied))] if copied else []
        if copied < len(rows):
            assert states is not None
            parts.append(encode(states[len(states) - len(rows) + copied :]).numpy())
        return joined(parts)

    def _copied(self, rows: pa.Table) -> int:
        return int((rows["row"].to_numpy() < self._rows).sum())
