"""The extract stage: a corpus through an LLM; the kept contextual embeddings are written to an EmbeddingStore."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from jobs.base import begun_run, command_line
from jobs.continued_stores import (
    CopiedRows,
    Joined,
    join_with_stores,
    open_stores,
    recorded_stores,
    require_alike,
    stores_of,
)
from jobs.extract_settings import ExtractSettings
from jobs.extract_worker import ExtractWorker
from jobs.model_file import as_recorded, commit_of, model_identity
from jobs.planning_job import PlanningJob, finish_planning
from jobs.worker_memory import worker_bytes
from lenscore.contexts import corpus_pieces
from lenscore.contexts.context_table import RowTable, choose_rows, cut_sentences
from lenscore.contexts.contextual_states import RowReader
from lenscore.contexts.corpus import corpus_files, corpus_identity, read_corpus
from lenscore.contexts.corpus_file import CorpusFile
from lenscore.contexts.corpus_pieces import split_corpus
from lenscore.contexts.named_corpora import recorded_commits
from lenscore.contexts.row_choice import RowChoice, row_choice_of
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import most_tokens, text_config_of
from lenscore.models.fingerprints import text_weights_fingerprint
from lenscore.models.layers import resolve_layers
from lenscore.models.loading import text_model_of
from lenscore.models.source import absolute_model
from lenscore.models.text_only import is_causal, ordinary_tokens
from lenscore.user_files.notes import Notes
from storage_layouts.embeddings import SINK_RATIO, EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.files import FileDigest
from storage_layouts.row_tables import write_rows_part, write_sentences
from storage_layouts.runs import PLANNING, Plan, RunFolder, Shard
from storage_layouts.shards import part_name
from storage_layouts.store_layout import StoreLayout

SINK_NORMS = 20.0
"""A state of this many times the median norm of its layer is that of an attention sink. In SmolLM2, which has no BOS
token, first tokens have 30 to 150 times the median from block 12 on, all other tokens but a few below 10. (Massive
activations are found by a ratio to the median too: arXiv 2402.17762.)"""


@dataclass(frozen=True)
class ExtractJob(ExtractSettings):
    """Run a corpus through an LLM and keep the contextual embeddings that the lenses search."""

    @property
    def upstream(self) -> tuple[Path, ...]:
        """The stores that the run continues."""
        return self.add

    @property
    def plans_on(self) -> Literal["planned", "complete"]:
        """The planning reads the outlier dimensions of the stores, which their workers chose."""
        return "complete" if self.add else "planned"

    def open_run(self) -> RunFolder:
        """Create the store's run folder or resume it."""
        config = self._checkpoint.config
        _ = self._checkpoint.text_class  # raises InputError for a model without a known text model
        inputs: dict[str, Any] = {
            "corpus": corpus_identity(self.corpus_files(begun_run(self.out)), self.language),
            "model": model_identity(config, self._checkpoint.tokenizer),
        }
        if self.add:
            stores = open_stores(self, allow_incomplete=True)
            require_alike(self, stores, inputs["model"]["tokenizer_hash"])
            if len(stores) == 1 and not self.corpus and not self._adds_layers:
                lacks = "--layers that it lacks"
                raise InputError(f"--add {self.add[0]}: nothing to add; give --corpus, {lacks}, or another store")
            inputs["stores"] = recorded_stores(stores)
        self._layers(config)
        self.row_choice()
        settings = self.recorded()
        return RunFolder.create(
            self.out, self.stage, settings, as_recorded(self.out, inputs), command_line(self, settings)
        )

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Choose the rows, and write row table, sentences and metadata of the store."""
        if run.plan is not None:
            return
        if planning := self.planning(run):
            run.settle()
            finish_planning(planning, run, progress)
            return
        notes = Notes()
        corpus, table = self.corpus_files(run, notes), None
        passes: list[Notes] = []  # only the first one reads to the end
        if corpus:
            written = [file.state() for file in corpus]

            with ExitStack() as ends:  # with --limit, what was left out is only noted when the reading ends

                def sentences() -> Iterator[str]:
                    passes.append(Notes())
                    return ends.enter_context(closing(read_corpus(corpus, self.text_choice(), passes[-1])))

                table = choose_rows(sentences, self.tokenizer, self.row_choice(), progress)
            notes.include(passes[0])
            # Between two reads, a file may have been changed and changed back.
            if written != [file.state() for file in corpus]:
                raise _changed()
        self.write_plan(run, corpus, table, notes)

    def write_plan(self, run: RunFolder, corpus: Sequence[CorpusFile], table: RowTable | None, notes: Notes) -> None:
        """Write the plan of a store with the rows that were chosen of the corpus, after those of the stores of --add.

        `notes` are those on the corpus. Raises InputError if its files are no longer those that the run began with.
        """
        tokenizer, choice = self.tokenizer, self.row_choice()
        if corpus_identity(corpus, self.language) != run.inputs["corpus"]:
            raise _changed()
        joined = None
        if self.add:
            stores = stores_of(run, self)
            require_alike(self, stores, run.inputs["model"]["tokenizer_hash"])  # also in their weights, by now
            joined = join_with_stores(stores, table, tokenizer, choice, run.inputs["corpus"]["sha256"])
            table = joined.table
        assert table is not None
        run.settle()
        files: dict[str, FileDigest] = {}
        for shard in Plan(table.rows.num_rows, self.rows_per_shard).shards():
            name = part_name("rows", shard.index)
            files[name] = write_rows_part(run.path / name, table.rows.slice(shard.first, shard.items))
        files["sentences.parquet"] = write_sentences(run.path / "sentences.parquet", table.sentences)
        files |= EmbeddingStore.write_skeleton(run.path, self._layout(run, table.rows.num_rows, joined))
        cut = cut_sentences(table.sentences_cut, choice.max_tokens)
        facts = {
            "sentences_read": table.sentences_read,
            "sentences_kept": table.sentences.num_rows,
            "contexts_seen": table.contexts_seen,
            "sentences_cut": table.sentences_cut,
            "notes": [*(joined.notes if joined else []), *notes.lines(), *cut],
        }
        if joined:
            facts |= joined.facts
        run.write_plan(table.rows.num_rows, self.rows_per_shard, files, facts)

    def _layout(self, run: RunFolder, rows: int, joined: Joined | None) -> StoreLayout:
        config = self._checkpoint.config
        return StoreLayout(
            layers=self._layers(config),
            rows=rows,
            dim=text_config_of(config).hidden_size,
            encoding=self.encoding,
            rows_per_shard=self.rows_per_shard,
            separate_layers=self.separate_layers,
            outliers=joined.outlier_count if joined else 0,
            attrs={
                "model": absolute_model(self.model),
                "revision": run.inputs["model"]["revision"],
                "tokenizer_hash": run.inputs["model"]["tokenizer_hash"],
                "corpus_hash": joined.corpus_hash if joined else run.inputs["corpus"]["sha256"],
                "per_token": self.per_token,
                "seed": self.seed,
                "sampling": self.sampling,
                "positions": self.positions,
                **(joined.sink_ratio if joined else {} if self.keep_sinks else {SINK_RATIO: SINK_NORMS}),
            },
        )

    def planning(self, run: RunFolder) -> PlanningJob | None:
        """See `jobs.base.SharedPlanning`; None also with --limit, which counts sentences from the start on."""
        size = corpus_pieces.PIECE_BYTES
        if run.plan or self.limit is not None or len(split_corpus(self.corpus_files(run), size)) < 2:
            return None
        return PlanningJob(self.out / PLANNING, size)

    def open_worker(self, run: RunFolder, device: str) -> ExtractWorker:
        """Load the model, if there is something to compute, and check that it is the one the store began with."""
        store = EmbeddingStore.open(run.path, allow_incomplete=True)
        copied = CopiedRows(run, stores_of(run, self), store.layers) if self.add else None
        if copied and not copied.computed_layers(store.layers):
            return ExtractWorker(run, store, None, copied.weights_hash, copied)
        model, tokenizer = text_model_of(self._checkpoint.at(commit_of(run)), device)
        choice = self.row_choice()
        probe = ordinary_tokens(tokenizer, 8)
        if choice.causal and len(probe) > 1 and not is_causal(model, probe):
            raise InputError(
                f"--model {self.model}: its states depend on later tokens, so equal prefixes give different states; "
                "add --no-causal"
            )
        reader = RowReader(
            model,
            tokenizer,
            copied.computed_layers(store.layers) if copied else store.layers,
            batch_tokens=self.batch_tokens,
            max_tokens=choice.max_tokens,
            causal=choice.causal,
        )
        weights_hash = text_weights_fingerprint(model)
        if copied and weights_hash != copied.weights_hash:
            raise InputError(
                f"--model {self.model}: has other weights ({weights_hash[:12]}) than the model of {self.add[0]} "
                f"({copied.weights_hash[:12]}); expected the model of the store"
            )
        return ExtractWorker(run, store, reader, weights_hash, copied)

    def worker_bytes(self) -> int | None:
        """See `jobs.base.ModelJob`."""
        if self.add and not self.corpus and not self._adds_layers:
            return None  # it loads no model
        layers = self._layers(self._checkpoint.config)
        return worker_bytes(self._checkpoint, self.batch_tokens, states=self.rows_per_shard * len(layers))

    def computed(self, run: RunFolder, shard: Shard) -> int:
        """See `jobs.base.CopyingJob`."""
        plan = run.require_plan()
        copied = plan.facts.get("copied_rows", 0)
        if copied == plan.items or self._adds_layers:
            return shard.items
        return shard.stop - min(max(shard.first, copied), shard.stop)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.model, self.revision, self.trust_remote_code, self.dtype, self.quantization)

    @cached_property
    def _added_layers(self) -> tuple[int, ...]:
        return open_stores(self, allow_incomplete=True)[0].layers if self.add else ()

    @property
    def _adds_layers(self) -> bool:
        return bool(self.add) and self._layers(self._checkpoint.config) != self._added_layers

    def _layers(self, config: Any) -> tuple[int, ...]:
        asked = resolve_layers(self.layers, text_config_of(config).num_hidden_layers, visual=False)
        return tuple(sorted({*asked, *self._added_layers}))

    def corpus_files(self, run: RunFolder | None, notes: Notes | None = None) -> list[CorpusFile]:
        """The files of the corpus, of datasets those at the commits of the run; `notes` counts what is not read."""
        return corpus_files(self.corpus, notes, recorded_commits(run)) if self.corpus or not self.add else []

    @property
    def most_rows(self) -> int:
        """Rows that a corpus may give, however long it is: `per_token` for each token of the vocabulary."""
        return self.per_token * int(text_config_of(self._checkpoint.config).vocab_size)

    @property
    def tokenizer(self) -> Any:
        """That of the model."""
        return self._checkpoint.tokenizer

    def row_choice(self) -> RowChoice:
        """Which contexts become rows. Raises InputError for --max-tokens beyond what the model takes."""
        config = self._checkpoint.config
        longest = most_tokens(text_config_of(config))
        if self.max_tokens is not None and self.max_tokens > longest:
            raise InputError(f"--max-tokens: found {self.max_tokens}, but the model takes at most {longest} tokens")
        return row_choice_of(
            config,
            self.causal,
            self.positions,
            self.max_tokens,
            self.leave_out,
            per_token=self.per_token,
            sampling=self.sampling,
            seed=self.seed,
            fraction=self.fraction,
            limit=self.limit,
        )


def _changed() -> InputError:
    return InputError("--corpus: changed since the command began, while it was being read; repeat the command")
