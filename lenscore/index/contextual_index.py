"""The contextual embeddings of a store in memory, searched exactly.

Codes stay in 8 bits on the device; a block of rows at a time is decoded and multiplied (`scan`), so neither the
decoded layer nor the matrix of all scores ever exists.
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

from lenscore.index.exact_search import top_rows, unit_rows
from lenscore.index.hub import download_layers, upload_folder
from lenscore.index.latentlens_cache import read_cache_folder
from lenscore.index.layer_builder import ROWS_PER_BLOCK, encoded_layer
from lenscore.index.layer_loading import fits, load_layers
from lenscore.index.quantized_layer import QuantizedLayer
from lenscore.index.row_words import RowWord, RowWords
from lenscore.index.topk import TopK
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.latentlens_files import CACHE_FILE, metadata_of, words_of, write_cache, write_cache_metadata


@dataclass
class Neighbor:
    """One contextual embedding that a query is close to.

    `token_str` is the token as it stands in the sentence `caption`, `position` its place among the sentence's tokens.
    """

    token_str: str
    similarity: float
    caption: str = ""
    position: int = -1
    token_id: int = -1
    contextual_layer: int = -1


class ContextualIndex:
    """Exact nearest neighbours among contextual embeddings of several layers (LatentLens, arXiv 2602.00462).

    `layers` maps each contextual layer to its codes, or to what the latentlens library keeps of it: a mapping with
    "embeddings" [N, dim] and "metadata", N dicts of token_str, token_id, caption and position. `rows` is the row table
    of all layers (columns token_id, token, sentence_id, position; line r is row r), `sentences` holds
    sentence_id and text; `words` gives both by layer, where row r is not the same in all of them. With `from_store`
    they are read from the store at the first `search`.
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
            if isinstance(content, QuantizedLayer):
                self._layers[layer] = content
            else:
                self._layers[layer] = encoded_layer(content["embeddings"], f"layer {layer}")
                self._words[layer] = RowWords(*words_of(content["metadata"], f"metadata of layer {layer}"))
        if not layers or len({codes.encoded.codes.shape[1] for codes in self._layers.values()}) != 1:
            raise ValueError("an index needs at least one layer, and all layers of one width")
        if rows is not None and sentences is not None:
            self._words = dict.fromkeys(self._layers, RowWords(rows, sentences))
        self._store = store
        self.device = next(iter(self._layers.values())).encoded.codes.device

    @classmethod
    def from_store(
        cls,
        store: EmbeddingStore | str | Path,
        layers: Sequence[int] | None = None,
        device: str | torch.device = "cpu",
    ) -> ContextualIndex:
        """Read a store, whole or only some of its layers, and put it on a device (see `to`).

        Raises InputError for a layer that the store does not have, and what `EmbeddingStore.open` raises for
        a store that is incomplete or damaged.
        """
        if not isinstance(store, EmbeddingStore):
            store = EmbeddingStore.open(store, layers=layers)
        asked = tuple(store.layers if layers is None else layers)
        for layer in asked:
            if layer not in store.layers:
                have = ", ".join(map(str, store.layers))
                raise InputError(f"{store.path}: has no contextual layer {layer}; expected some of {have}")
        device = torch.device(device)
        placed = load_layers(store, asked, device)
        index = cls(placed, store=store)
        index.device = device
        return index

    @classmethod
    def from_directory(cls, path: str | Path, layers: Sequence[int] | None = None) -> ContextualIndex:
        """Read a store of ours or a cache folder of the latentlens library, whole or only some of its layers.

        Nothing in the folder is run: a cache that holds more than plain data is refused. Raises InputError for a
        cache of another kind, MissingFileError (a FileNotFoundError too) if there is no such folder, cache or layer.
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
        """Download an index from the Hugging Face Hub, a store or a latentlens cache, and read it.

        Of the embeddings only those of `layers` are downloaded (None: of all layers); what `cache_dir` (None: that of
        huggingface_hub) already holds is not downloaded again. `revision` is a branch, tag or commit. Raises
        MissingFileError if there is no such repository or layer, and as `from_directory`.
        """
        if Path(repo_id).is_dir():  # as the latentlens library takes it
            return cls.from_directory(repo_id, layers)
        return cls.from_directory(*download_layers(repo_id, layers, cache_dir, revision, token))

    def save(self, path: str | Path, storage_dtype: torch.dtype = torch.float16) -> None:
        """Write the index as a cache folder that the latentlens library reads too; see `lens convert` for a store.

        `storage_dtype` is that of the embeddings on disk; they are unit vectors. Raises InputError if it cannot be
        written or the index has no words.
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
        """Upload the index into a model repository, which is created if need be; returns the commit's address.

        `kind` "latentlens" uploads what `save` writes, which both libraries read; "store" uploads the whole store
        that the index was opened from. Raises InputError if the Hub refuses or there is no such store.
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
    def hidden_dim(self) -> int:
        """Width of the hidden states."""
        return int(next(iter(self._layers.values())).encoded.codes.shape[1])

    def to(self, device: str | torch.device) -> ContextualIndex:
        """Search on this device from now on; returns the index itself.

        Layers that do not all fit on a CUDA device stay in host memory, pinned, and visit it one after the other
        at each search: the bytes of the answers are the same.
        """
        device = torch.device(device)
        elsewhere = [codes.bytes for codes in self._layers.values() if codes.encoded.codes.device != device]
        resident = fits(sum(elsewhere), device)
        self._layers = {
            layer: codes.to(device) if resident else codes.pinned() for layer, codes in self._layers.items()
        }
        self.device = device
        return self

    @torch.inference_mode()
    def top(self, queries: Tensor, k: int, layers: Sequence[int] | None = None) -> TopK:
        """The k nearest rows over all asked contextual layers (None: all of them): a TopK of [n, k].

        `queries` [n, dim] in any float dtype; they are normalised. Scores are cosines: those of the float64
        product with the stored row, rounded to float32; equal ones go to the smaller layer, then the smaller row. One
        row may be found at several contextual layers. Raises InputError for queries of another width, layers
        that are not there or a k beyond the number of candidates, ValueError for queries that are zero or not finite.
        """
        asked = self._asked(layers)
        if queries.ndim != 2 or queries.shape[1] != self.hidden_dim:
            raise InputError(
                f"queries of shape {list(queries.shape)}: expected [n, {self.hidden_dim}], hidden states of the model "
                "that the index was made from"
            )
        candidates = sum(len(self._layers[layer]) for layer in asked)
        if not 1 <= k <= candidates:
            raise InputError(f"top_k {k}: the index has {candidates} candidates; expected 1 to that many")
        return top_rows(
            unit_rows(queries.to(self.device)), ((layer, self._layers[layer].to(self.device)) for layer in asked), k
        )

    def search(self, query: Tensor, top_k: int = 5, layers: Sequence[int] | None = None) -> list[list[Neighbor]]:
        """The nearest neighbours of every query with their sentences, nearest first; see `top`.

        `query` [n, dim], or [dim] for a single query, which still gives a list of one list. There are fewer than
        `top_k` neighbours where the layers have fewer rows.
        """
        top_k = min(top_k, sum(len(self._layers[layer]) for layer in self._asked(layers)))
        top = self.top(query[None] if query.ndim == 1 else query, top_k, layers)
        ids, similarities, at = (part.flatten().tolist() for part in (top.ids, top.scores, top.contextual_layers))
        flat = [
            Neighbor(word.token, similarity, word.sentence, word.position, word.token_id, layer)
            for word, similarity, layer in zip(self._described(ids, at), similarities, at, strict=True)
        ]
        return [flat[i : i + top_k] for i in range(0, len(flat), top_k)]

    def blocks(self, layer: int) -> Iterator[Tensor]:
        """The unit vectors of a layer's rows in order, some rows at a time: float32 [n, dim]."""
        codes = self._layers[layer]
        for first in range(0, len(codes), ROWS_PER_BLOCK):
            yield codes.decoded(first, min(first + ROWS_PER_BLOCK, len(codes)))

    def metadata(self, layer: int) -> list[dict[str, Any]]:
        """All rows of a layer in order, as the latentlens library lists them: token_str, token_id, caption, position.

        Raises InputError for a layer that is not there, or if the index was made without words.
        """
        self._asked([layer])
        words = self.words(layer)
        return metadata_of(words.rows, words.sentences)

    def words(self, layer: int) -> RowWords:
        """What the rows of a layer are. InputError if the index was made without."""
        if self._store is not None and not self._words:
            self._words = dict.fromkeys(self._layers, RowWords.of_store(self._store))
        if layer not in self._words:
            raise InputError("this index holds embeddings without their words; build it with from_store")
        return self._words[layer]

    @property
    def store(self) -> EmbeddingStore | None:
        """The store that the index was opened from, if any."""
        return self._store

    def _asked(self, layers: Sequence[int] | None) -> list[int]:
        asked = self.available_layers if layers is None else sorted(set(layers))
        for layer in asked:
            if layer not in self._layers:
                have = ", ".join(map(str, self._layers))
                raise InputError(f"the index has no contextual layer {layer}; expected some of {have}")
        return asked

    def _described(self, ids: list[int], layers: list[int]) -> list[RowWord]:
        """The words of (row, layer) pairs, in their order."""
        found: dict[tuple[int, int], RowWord] = {}
        for layer in set(layers):
            rows = sorted({row for row, at in zip(ids, layers, strict=True) if at == layer})
            found |= zip([(row, layer) for row in rows], self.words(layer).describe(rows), strict=True)
        return [found[pair] for pair in zip(ids, layers, strict=True)]
