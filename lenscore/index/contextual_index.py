"""The contextual embeddings of a store in memory, searched exactly.

Codes stay in 8 bits on the device; one block of rows at a time is decoded and multiplied (`exact_search`), so neither
the decoded layer nor the matrix of all scores is held in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor

from lenscore.index.device_shares import DeviceShare, Part, shares_of, top_of_shares
from lenscore.index.exact_search import require_finite_queries, unit_rows
from lenscore.index.hub import download_layers, upload_folder
from lenscore.index.latentlens_cache import read_cache_folder
from lenscore.index.layer_builder import ROWS_PER_BLOCK, encoded_layer
from lenscore.index.layer_loading import load_layers
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.row_ranks import QUERIES, best_rows
from lenscore.index.row_words import RowWord, RowWords
from lenscore.index.small_index import SmallIndex
from lenscore.index.topk import TopK
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.latentlens_files import CACHE_FILE, metadata_of, words_of, write_cache, write_cache_metadata

Devices = str | torch.device | Sequence[str | torch.device]
"""A torch device, or several that share the rows of an index."""


@dataclass
class Neighbor:
    """One nearest neighbour of a query: the token `token_str` at `position` (in tokens) of the sentence `caption`."""

    token_str: str
    similarity: float
    caption: str = ""
    position: int = -1
    token_id: int = -1
    contextual_layer: int = -1


class ContextualIndex:
    """Exact nearest neighbours among contextual embeddings of several layers (LatentLens, arXiv 2602.00462).

    Args:
        layers: each contextual layer's codes, or its content in the latentlens library: a mapping with "embeddings"
            [N, dim] and "metadata", N dicts of token_str, token_id, caption and position.
        rows: the row table of all layers (columns token_id, token, sentence_id, position; line r is row r).
        sentences: sentence_id and text.
        store: read rows and sentences from it at the first `search`.
        words: rows and sentences by layer, if row r differs between layers.

    """

    def __init__(
        self,
        layers: Mapping[int, Any],
        rows: pa.Table | None = None,
        sentences: pa.Table | None = None,
        store: EmbeddingStore | None = None,
        *,
        words: Mapping[int, RowWords] | None = None,
    ) -> None:
        self._words = dict(words or {})
        self._layers: dict[int, QuantizedLayer] = {}
        for layer, content in sorted(layers.items()):
            if not isinstance(content, QuantizedLayer):
                tables = words_of(content["metadata"], f"metadata of layer {layer}")
                self._words[layer] = RowWords.shared(*tables, self._words.values())
                content = encoded_layer(content["embeddings"], f"layer {layer}")
            self._layers[layer] = content
        if not layers or len({codes.dim for codes in self._layers.values()}) != 1:
            raise ValueError("an index needs at least one layer, and all layers of one width")
        if rows is not None and sentences is not None:
            self._words = dict.fromkeys(self._layers, RowWords(rows, sentences))
        self.store = store
        self.device = next(iter(self._layers.values())).device
        self._shares = [DeviceShare(self.device, tuple(self._layers.items()))]
        self._small: dict[tuple[int, ...], SmallIndex | None] = {}

    @classmethod
    def from_store(
        cls,
        store: EmbeddingStore | str | Path,
        layers: Sequence[int] | None = None,
        device: Devices = "cpu",
        memory: int | None = None,
    ) -> ContextualIndex:
        """Read all or some layers of a store, and put them on devices (see `to`).

        Raises InputError for a layer that is not in the store or too little `memory`, and as `EmbeddingStore.open` for
        an incomplete or damaged store.
        """
        if not isinstance(store, EmbeddingStore):
            store = EmbeddingStore.open(store, layers=layers)
        loaded = load_layers(store, store.layers if layers is None else layers, _listed(device), memory)
        return cls(loaded, store=store).to(device, memory)

    @classmethod
    def from_directory(cls, path: str | Path, layers: Sequence[int] | None = None) -> ContextualIndex:
        """Read all or some layers of a store, or of a cache folder of the latentlens library.

        Raises InputError for another kind of cache, or one that holds more than plain data (no code is run);
        MissingFileError (also a FileNotFoundError) if there is no such folder, cache or layer.
        """
        path = Path(path)
        if (path / "run.json").exists():
            return cls.from_store(path, layers)
        codes, words = read_cache_folder(path, layers)
        return cls(codes, words=words)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        layers: Sequence[int] | None = None,
        cache_dir: str | Path | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> ContextualIndex:
        """Download a store or a latentlens cache from the Hugging Face Hub, and read it.

        Args:
            repo_id: a model repository, or a local folder.
            layers: only their embeddings are downloaded; None for all layers.
            cache_dir: for downloaded files; None is the folder of huggingface_hub.
            revision: branch, tag or commit.
            token: of the Hub.

        Raises:
            MissingFileError: if there is no such repository or layer; other errors as in `from_directory`.

        """
        if Path(repo_id).is_dir():  # as in the latentlens library
            return cls.from_directory(repo_id, layers)
        return cls.from_directory(*download_layers(repo_id, layers, cache_dir, revision, token))

    def save(self, path: str | Path, storage_dtype: torch.dtype = torch.float16) -> None:
        """Write the index as a cache folder, which the latentlens library reads too; see `lens convert` for a store.

        The embeddings are unit vectors in `storage_dtype`, those of attention sinks included, which a search of the
        cache finds. Raises InputError if the folder cannot be written or the
        index has no words.
        """
        for layer in self.available_layers:
            metadata = self.metadata(layer)
            file = Path(path) / f"layer_{layer}" / CACHE_FILE
            write_cache(file, self.blocks(layer), len(metadata), self.hidden_dim, storage_dtype, metadata)
        write_cache_metadata(path, self.available_layers, self.hidden_dim)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        kind: Literal["latentlens", "store"] = "latentlens",
        storage_dtype: torch.dtype = torch.float16,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Contextual embeddings",
    ) -> str:
        """Upload the index into a model repository, which is created if it does not exist.

        Args:
            repo_id: the repository.
            kind: "latentlens" uploads the files of `save`; "store" the store that the index was opened from.
            storage_dtype: of the embeddings of a "latentlens" upload.
            private: whether a new repository is private.
            token: of the Hub.
            commit_message: of the upload.

        Returns:
            The address of the commit.

        Raises:
            InputError: if the upload fails, or if there is no store.

        """
        if kind == "store":
            if self.store is None:
                raise InputError(
                    'push_to_hub: kind "store" needs an index that was opened from a store; use kind "latentlens"'
                )
            return upload_folder(self.store.path, repo_id, private, token, commit_message)
        with tempfile.TemporaryDirectory() as aside:
            self.save(aside, storage_dtype)
            return upload_folder(Path(aside), repo_id, private, token, commit_message)

    def __len__(self) -> int:
        """Number of embeddings: the rows of all layers together."""
        return sum(map(len, self._layers.values()))

    def __repr__(self) -> str:
        return (
            f"ContextualIndex({len(self):,} embeddings of {self.hidden_dim} dimensions, layers {self.available_layers})"
        )

    @property
    def available_layers(self) -> list[int]:
        """The contextual layers, ascending."""
        return list(self._layers)

    @property
    def candidates(self) -> int:
        """Number of embeddings that a search may find."""
        return sum(codes.candidates for codes in self._layers.values())

    @property
    def hidden_dim(self) -> int:
        """Width of the hidden states."""
        return next(iter(self._layers.values())).dim

    def to(self, device: Devices, memory: int | None = None) -> ContextualIndex:
        """Search on this device from now on, or on several that share the rows; returns the index itself.

        `memory` is the number of bytes of the index that each device may hold, by default what is free. Rows beyond it
        are read from host memory or, if the index is that of a store, from its files at each search, part after part,
        with the same results. Raises InputError if it is too little for single parts.
        """
        devices = _listed(device)
        self._shares = shares_of(self._layers, devices, memory)
        if len(devices) == 1 and not self.streams:
            self._layers = dict(self._shares[0].resident)
        self.device = devices[0]
        self._small = {}
        return self

    @property
    def streams(self) -> bool:
        """Whether each search reads rows that the devices do not hold: the more queries at a time, the better."""
        return any(share.streamed for share in self._shares)

    @torch.inference_mode()
    def top(self, queries: Tensor, k: int, layers: Sequence[int] | None = None) -> TopK:
        """The k nearest rows over some contextual layers (None: all of them): a TopK of [n, k].

        `queries` [n, dim] in any float dtype are normalised. Scores are cosines in float64, rounded to float32; equal
        ones are ordered by layer, then row. A row may occur at several contextual layers. Raises InputError for
        queries of another width, missing layers or a k above the number of candidates, ValueError for queries that
        are zero or not finite.
        """
        requested = self._requested(layers)
        self._require_width(queries)
        candidates = sum(self._layers[layer].candidates for layer in requested)
        if not 1 <= k <= candidates:
            raise InputError(f"top_k {k}: the index has {candidates} candidates; expected 1 to that many")
        queries = queries.to(self.device)
        small = self._small_index(tuple(requested))
        found = small and small.top(unit_rows(queries), k)
        return found or top_of_shares(queries, self._shares, k, requested)

    @torch.inference_mode()
    def best_rows(self, queries: Tensor, words: Sequence[Mapping[int, Sequence[int]]]) -> tuple[Tensor, ...]:
        """Score (float32), rank (int64) and contextual layer (int16) of the best row of each word: [words, n] each.

        `words` are the rows of each word by contextual layer. Scores are those of `top`; the rank is 1 + the number of
        candidates of all layers with a higher score. Raises InputError for a word without a row that a search may
        find, and as `top`.
        """
        self._require_width(queries)
        for number, rows in enumerate(words):
            if not any(len(self.candidate_rows(layer, found)) for layer, found in rows.items()):
                raise InputError(f"word {number} has no row that a search may find")
        units = unit_rows(queries.to(self.device))
        require_finite_queries(units)

        def parts_of_layers() -> Iterator[Part]:
            for layer in self._layers:
                for share in self._shares:
                    for batch in share.batches([layer]):
                        yield from batch

        parts = [best_rows(chunk, parts_of_layers, words) for chunk in units.split(QUERIES)]
        return tuple(torch.cat(part, dim=1) for part in zip(*parts, strict=True))

    def candidate_rows(self, layer: int, rows: Sequence[int]) -> list[int]:
        """Those of some rows that a search may find at a layer."""
        self._requested([layer])
        excluded = set(self._layers[layer].excluded.tolist())
        return [row for row in rows if row not in excluded]

    def _require_width(self, queries: Tensor) -> None:
        if queries.ndim != 2 or queries.shape[1] != self.hidden_dim:
            raise InputError(
                f"queries of shape {list(queries.shape)}: expected [n, {self.hidden_dim}], hidden states of the model "
                "of the index"
            )

    def _small_index(self, layers: tuple[int, ...]) -> SmallIndex | None:
        """These layers as one small index, made at their first search; None if they are not small."""
        if self.device.type != "cpu" or len(self._shares) > 1 or self.streams:
            return None
        if layers not in self._small:
            self._small = {layers: SmallIndex.of([(layer, self._layers[layer]) for layer in layers])}
        return self._small[layers]

    def search(self, query: Tensor, top_k: int = 5, layers: Sequence[int] | None = None) -> list[list[Neighbor]]:
        """The nearest neighbours of every query with their sentences, nearest first; see `top`.

        `query` [n, dim], or [dim] for a single query, which gives a list of one list. There are fewer than `top_k`
        neighbours if the layers have fewer rows.
        """
        top_k = min(top_k, sum(self._layers[layer].candidates for layer in self._requested(layers)))
        top = self.top(query[None] if query.ndim == 1 else query, top_k, layers)
        ids, similarities, at = (part.flatten().tolist() for part in top)
        flat = [
            Neighbor(word.token, similarity, word.sentence, word.position, word.token_id, layer)
            for word, similarity, layer in zip(self._described(ids, at), similarities, at, strict=True)
        ]
        return [flat[i : i + top_k] for i in range(0, len(flat), top_k)]

    def rows(self, layer: int) -> int:
        """Number of rows of a layer."""
        return len(self._layers[layer])

    def excluded_rows(self, layer: int) -> Tensor:
        """Rows of a layer that no search finds: int64 ascending, on the index's device."""
        return torch.from_numpy(self._layers[layer].excluded).to(self.device)

    def unit_vectors(self, layer: int, rows: Tensor) -> Tensor:
        """The unit vectors of some rows [m] of a layer, float32 [m, dim], on the index's device."""
        return self._layers[layer].decoded_rows(rows).to(self.device)

    def blocks(self, layer: int) -> Iterator[Tensor]:
        """The unit vectors of a layer's rows in order, in blocks float32 [n, dim]."""
        codes = self._layers[layer]
        for first in range(0, len(codes), ROWS_PER_BLOCK):
            yield codes.decoded(first, min(first + ROWS_PER_BLOCK, len(codes)))

    def metadata(self, layer: int) -> list[dict[str, Any]]:
        """All rows of a layer in order, as dicts of token_str, token_id, caption and position, as in latentlens.

        Raises InputError for a missing layer, or if the index was made without words.
        """
        self._requested([layer])
        words = self.words(layer)
        return metadata_of(words.rows, words.sentences)

    def words(self, layer: int) -> RowWords:
        """The words of a layer's rows. Raises InputError if the index was made without words."""
        if self.store is not None and not self._words:
            self._words = dict.fromkeys(self._layers, RowWords.of_store(self.store))
        if layer not in self._words:
            raise InputError("this index holds embeddings without their words; build it with from_store")
        return self._words[layer]

    def _requested(self, layers: Sequence[int] | None) -> list[int]:
        requested = self.available_layers if layers is None else sorted(set(layers))
        for layer in requested:
            if layer not in self._layers:
                have = ", ".join(map(str, self._layers))
                raise InputError(f"the index has no contextual layer {layer}; expected some of {have}")
        return requested

    def _described(self, ids: list[int], layers: list[int]) -> list[RowWord]:
        """The words of (row, layer) pairs, in their order."""
        tables = {layer: self.words(layer) for layer in set(layers)}  # all layers of a store have the same table
        asked: dict[RowWords, set[int]] = {table: set() for table in tables.values()}
        for row, layer in zip(ids, layers, strict=True):
            asked[tables[layer]].add(row)
        found = {table: dict(zip(rows, table.describe(list(rows)), strict=True)) for table, rows in asked.items()}
        return [found[tables[layer]][row] for row, layer in zip(ids, layers, strict=True)]


def _listed(devices: Devices) -> list[torch.device]:
    several = devices if isinstance(devices, Sequence) and not isinstance(devices, str) else [devices]
    found = [torch.device(device) for device in several]
    current = torch.device("cuda", torch.cuda.current_device()) if torch.device("cuda") in found else None
    return [current if current and device == torch.device("cuda") else device for device in found]
