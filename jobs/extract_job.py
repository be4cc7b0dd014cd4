"""The extract stage: a corpus through an LLM; the kept contextual embeddings are written to an EmbeddingStore."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from jobs.base import Progress, command_line, no_progress
from jobs.extract_settings import ExtractSettings
from jobs.model_file import as_recorded, commit_of, model_identity, record_or_check_weights
from jobs.prefetching import Prefetcher
from jobs.worker_memory import worker_bytes
from lenscore.contexts.context_table import RowChoice, choose_rows, cut_sentences
from lenscore.contexts.contextual_states import Batch, RowReader
from lenscore.contexts.corpus import corpus_files, hash_files, read_corpus
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import DEFAULT_MAX_TOKENS, most_tokens, text_config_of
from lenscore.models.fingerprints import text_weights_fingerprint
from lenscore.models.layers import resolve_layers
from lenscore.models.loading import text_model_of
from lenscore.models.source import absolute_model
from lenscore.models.text_only import is_causal, known_bidirectional, ordinary_tokens
from lenscore.user_files.finding import stored_path
from lenscore.user_files.notes import Notes
from storage_layouts.embeddings import SINK_RATIO, EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.files import FileDigest
from storage_layouts.quantize import Encoded, choose_outlier_dims, encode
from storage_layouts.row_tables import write_rows_part, write_sentences
from storage_layouts.runs import Plan, Receipt, RunFolder, Shard
from storage_layouts.shards import part_name
from storage_layouts.store_layout import StoreLayout

CALIBRATION_ROWS = 512
SINK_NORMS = 20.0
"""A state of this many times the median norm of its layer is that of an attention sink. In SmolLM2, which has no BOS
token, first tokens have 30 to 150 times the median from block 12 on, all other tokens but a few below 10. (Massive
activations are found by a ratio to the median too: arXiv 2402.17762.)"""


@dataclass(frozen=True)
class ExtractJob(ExtractSettings):
    """Run a corpus through an LLM and keep the contextual embeddings that the lenses search."""

    @property
    def upstream(self) -> tuple[Path, ...]:
        """There are no upstream runs."""
        return ()

    def open_run(self) -> RunFolder:
        """Create the store's run folder or resume it."""
        config = self._checkpoint.config
        _ = self._checkpoint.text_class  # raises InputError for a model without a known text model
        inputs = {
            "corpus": corpus_identity(corpus_files(self.corpus)),
            "model": model_identity(config, self._checkpoint.tokenizer),
        }
        self._layers(config)
        self._choice(config)
        settings = self.recorded()
        return RunFolder.create(
            self.out, self.stage, settings, as_recorded(self.out, inputs), command_line(self, settings)
        )

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Choose the rows, and write row table, sentences and metadata of the store."""
        if run.plan is not None:
            return
        config, tokenizer = self._checkpoint.config, self._checkpoint.tokenizer
        text_config = text_config_of(config)
        notes = Notes()
        corpus = corpus_files(self.corpus, notes)
        written = [_written(path) for path in corpus]

        passes: list[Notes] = []

        def sentences() -> Iterator[str]:
            passes.append(Notes())
            return read_corpus(corpus, self.column, self.encoding_errors, passes[-1])

        choice = self._choice(config)
        table = choose_rows(sentences, tokenizer, choice, progress)
        # Also by their times: between two reads, a file may have been changed and changed back.
        if written != [_written(path) for path in corpus] or corpus_identity(corpus) != run.inputs["corpus"]:
            raise InputError("--corpus: changed since the command began, while it was being read; repeat the command")
        run.settle()
        files: dict[str, FileDigest] = {}
        for shard in Plan(table.rows.num_rows, self.rows_per_shard).shards():
            name = part_name("rows", shard.index)
            files[name] = write_rows_part(run.path / name, table.rows.slice(shard.first, shard.items))
        files["sentences.parquet"] = write_sentences(run.path / "sentences.parquet", table.sentences)
        layout = StoreLayout(
            layers=self._layers(config),
            rows=table.rows.num_rows,
            dim=text_config.hidden_size,
            encoding=self.encoding,
            rows_per_shard=self.rows_per_shard,
            separate_layers=self.separate_layers,
            attrs={
                "model": absolute_model(self.model),
                "revision": run.inputs["model"]["revision"],
                "tokenizer_hash": run.inputs["model"]["tokenizer_hash"],
                "corpus_hash": run.inputs["corpus"]["sha256"],
                "per_token": self.per_token,
                "seed": self.seed,
                "sampling": self.sampling,
                "positions": self.positions,
                **({} if self.keep_sinks else {SINK_RATIO: SINK_NORMS}),
            },
        )
        files |= EmbeddingStore.write_skeleton(run.path, layout)
        facts = {
            "sentences_read": table.sentences_read,
            "sentences_kept": table.sentences.num_rows,
            "contexts_seen": table.contexts_seen,
            "sentences_cut": table.sentences_cut,
            "notes": [*notes.lines(), *passes[0].lines(), *cut_sentences(table.sentences_cut, choice.max_tokens)],
        }
        run.write_plan(table.rows.num_rows, self.rows_per_shard, files, facts)

    def open_worker(self, run: RunFolder, device: str) -> ExtractWorker:
        """Load the model and check that it is the one the store began with."""
        model, tokenizer = text_model_of(self._checkpoint.at(commit_of(run)), device)
        choice = self._choice(model.config)
        probe = ordinary_tokens(tokenizer, 8)
        if choice.causal and len(probe) > 1 and not is_causal(model, probe):
            raise InputError(
                f"--model {self.model}: its states depend on later tokens, so equal prefixes give different states; "
                "add --no-causal"
            )
        store = EmbeddingStore.open(run.path, allow_incomplete=True)
        reader = RowReader(
            model,
            tokenizer,
            store.layers,
            batch_tokens=self.batch_tokens,
            max_tokens=choice.max_tokens,
            causal=choice.causal,
        )
        return ExtractWorker(run, store, reader, text_weights_fingerprint(model))

    def worker_bytes(self) -> int | None:
        """See `jobs.base.ModelJob`."""
        layers = self._layers(self._checkpoint.config)
        return worker_bytes(self._checkpoint, self.batch_tokens, states=self.rows_per_shard * len(layers))

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.model, self.revision, self.trust_remote_code, self.dtype, self.quantization)

    def _layers(self, config: Any) -> tuple[int, ...]:
        return resolve_layers(self.layers, text_config_of(config).num_hidden_layers, visual=False)

    def _choice(self, config: Any) -> RowChoice:
        longest = most_tokens(text_config_of(config))
        if self.max_tokens is not None and self.max_tokens > longest:
            raise InputError(f"--max-tokens: found {self.max_tokens}, but the model takes at most {longest} tokens")
        return RowChoice(
            per_token=self.per_token,
            sampling=self.sampling,
            seed=self.seed,
            causal=self.causal and not known_bidirectional(config),
            first_position=2 if self.positions == "from-2" else 0,
            max_tokens=self.max_tokens or min(DEFAULT_MAX_TOKENS, longest),
            fraction=self.fraction,
            limit=self.limit,
            leave_out=frozenset(word.strip() for word in self.leave_out.split(",") if word.strip()),
        )


def corpus_identity(files: Sequence[Path]) -> dict[str, Any]:
    """The fields of a corpus among the inputs in run.json."""
    return {"files": [stored_path(path.resolve()) for path in files], "sha256": hash_files(files)}


def _written(file: Path) -> tuple[int, int, int]:
    """Identity of a file's content: inode, size and modification time."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _not_first(positions: np.ndarray) -> np.ndarray:
    """Rows that are hardly sinks, for a median norm: from position 2 on; of short texts from 1 on, or all."""
    later = (np.flatnonzero(positions >= least) for least in (2, 1, 0))
    return next(rows for rows in later if len(rows))


def _median_norm(states: Tensor) -> float:
    return float(torch.linalg.vector_norm(states.float(), dim=1).median())


class ExtractWorker:
    """Computes the quantised embeddings of every layer for shards of rows, with one model on one device."""

    def __init__(self, run: RunFolder, store: EmbeddingStore, reader: RowReader, weights_hash: str) -> None:
        self._store = store
        self._reader = reader
        self._model_file = record_or_check_weights(run, weights_hash)
        self._plan = run.require_plan()
        self._prefetcher = Prefetcher(self._batches)
        self._latest: int | None = None
        # Every worker computes it from the same rows, and uses the dimensions of the first one.
        first = store.rows_of(self._plan.shard(0)).slice(0, CALIBRATION_ROWS)
        states = reader.forward(self._batches_of(first))
        usual = _not_first(first["position"].to_numpy())
        self._outlier_dims = {
            layer: store.set_outlier_dims(
                layer,
                choose_outlier_dims(found, store.layout.outlier_count, f"layer {layer}"),
                _median_norm(found[usual]),
            )
            for layer, found in ((layer, states[layer]) for layer in store.layers)
        }
        self._sink_norms = {layer: store.sink_norm(layer) for layer in store.layers}
        self._keeps_sinks = SINK_RATIO not in store.attrs

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Compute, quantise on the device, and write the rows of one shard in every layer.

        While the device computes, a thread reads and tokenises the shard that probably comes next; while one layer is
        quantised, others are written.
        """
        batches = self._prefetcher.take(shard)
        self._prefetcher.expect(self._likely_after(shard))
        states = self._reader.forward(batches, progress)
        massive: list[Tensor] = []  # read at the end: a GPU goes on meanwhile

        def encoded_layers() -> Iterator[tuple[int, Encoded]]:
            for layer, dims in self._outlier_dims.items():
                where = f"layer {layer}, shard {shard.index}"
                encoded = encode(states.pop(layer), self._store.encoding, dims, context=where)
                massive.append(encoded.norm >= self._sink_norms[layer])
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
        return self._batches_of(self._store.rows_of(shard))

    def _batches_of(self, rows: pa.Table) -> list[Batch]:
        ids = rows["sentence_id"].unique().to_pylist()
        return self._reader.batches(rows, dict(zip(ids, self._store.sentence_texts(ids), strict=True)))
