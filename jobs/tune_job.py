"""The tune stage: a Tuned Lens, whose translators learn on a corpus what the model would say after its last block.

A shard is a group of layers. Each runs the model on all sequences and trains its translators beside it, which need
nothing of other layers: so groups, workers and kills change no byte. An item of the plan is one sequence for one layer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from jobs.base import begun_run, command_line
from jobs.model_file import as_recorded, commit_of, model_identity, record_or_check_weights
from jobs.tune_settings import TuneSettings
from jobs.tune_worker import SEQUENCE_COLUMN, TuneWorker, sequence_schema
from jobs.worker_memory import worker_bytes
from lenscore.contexts.corpus import corpus_files, corpus_identity, read_corpus
from lenscore.contexts.corpus_file import CorpusFile
from lenscore.contexts.named_corpora import recorded_commits
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import most_tokens, text_config_of
from lenscore.models.fingerprints import text_weights_fingerprint
from lenscore.models.loading import LanguageModel, text_model_of
from lenscore.models.source import absolute_model
from lenscore.tuning.packing import packed
from lenscore.tuning.translator_training import TOKENS_AT_ONCE, Recipe
from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder
from storage_layouts.tables import write_table

PROBE_SEQUENCES = 4


@dataclass(frozen=True)
class TuneJob(TuneSettings):
    """Train a Tuned Lens: for every layer of an LLM an affine translator into the form of the last one."""

    @property
    def upstream(self) -> tuple[Path, ...]:
        """There are no upstream runs."""
        return ()

    def open_run(self) -> RunFolder:
        """Create the run folder or resume the run."""
        config = self._checkpoint.config
        _ = self._checkpoint.text_class  # raises InputError for a model without a known text model
        longest = most_tokens(text_config_of(config))
        if self.tokens_per_sequence > longest:
            raise InputError(
                f"--tokens-per-sequence: found {self.tokens_per_sequence}, but the model takes at most {longest} tokens"
            )
        inputs = {
            "corpus": corpus_identity(self._corpus_files(begun_run(self.out)), self.language),
            "model": model_identity(config, self._checkpoint.tokenizer),
        }
        settings = self.recorded()
        return RunFolder.create(
            self.out, self.stage, settings, as_recorded(self.out, inputs), command_line(self, settings)
        )

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Cut the corpus into sequences, those to train on and those held out, unless the run has a plan."""
        if run.plan is not None:
            return
        notes, text = Notes(), text_config_of(self._checkpoint.config)
        files = self._corpus_files(run, notes)
        with closing(read_corpus(files, self.text_choice(), notes)) as texts:
            found = packed(
                islice(texts, self.limit),
                self._checkpoint.tokenizer,
                self.tokens_per_sequence,
                self.seed,
                self.held_out,
                progress,
            )
        if corpus_identity(files, self.language) != run.inputs["corpus"]:
            raise InputError("--corpus: changed since the command began; repeat the command")
        run.settle()
        schema = sequence_schema(self.tokens_per_sequence)
        evaluated = found.held_out[: max(1, self.held_out_tokens // self.tokens_per_sequence)]
        written = {}
        for name, ids in (("training.parquet", found.training), ("held_out.parquet", evaluated)):
            column = pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), self.tokens_per_sequence)
            written[name] = write_table(run.path / name, pa.table({SEQUENCE_COLUMN: column}), schema)
        facts = {
            "lens": {
                "base_model_name_or_path": absolute_model(self.model),
                "base_model_revision": run.inputs["model"]["revision"],
                "d_model": text.hidden_size,
                "num_hidden_layers": text.num_hidden_layers,
            },
            "texts": found.texts,
            "sequences": len(found.training),
            "held_out_sequences": len(evaluated),
            "notes": notes.lines(),
        }
        of_a_layer = self.steps * self.sequences_per_step
        run.write_plan(text.num_hidden_layers * of_a_layer, self._layers_per_shard(text) * of_a_layer, written, facts)

    def open_worker(self, run: RunFolder, device: str) -> TuneWorker:
        """Load the model and check that it is the one the run began with."""
        if device != "cpu":
            # Equal commands give equal bytes: sums in a fixed order, also in the backward pass.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        model, tokenizer = text_model_of(self._checkpoint.at(commit_of(run)), device)
        model_file = record_or_check_weights(run, text_weights_fingerprint(model))
        recipe = Recipe(self.steps, self.optimizer, self.rate, self.weight_decay, self.clip)
        llm = LanguageModel(self.model, model, tokenizer)
        return TuneWorker(run, llm, recipe, self.sequences_per_step, self.batch_tokens, self.seed, model_file)

    def for_probe(self, out: Path) -> TuneJob:
        """See `jobs.base.ProbedJob`."""
        few = min(self.sequences_per_step, PROBE_SEQUENCES)
        return replace(self, out=out, steps=1, sequences_per_step=few, held_out_tokens=1)

    def data_bytes(self) -> int:
        """See `jobs.base.ProbedJob`."""
        text = text_config_of(self._checkpoint.config)
        return 4 * text.num_hidden_layers * (text.hidden_size + 1) * text.hidden_size

    def worker_bytes(self) -> int | None:
        """See `jobs.base.ModelJob`."""
        text = text_config_of(self._checkpoint.config)
        layers, width = self._layers_per_shard(text), text.hidden_size
        model = worker_bytes(self._checkpoint, self.batch_tokens, states=self.batch_tokens * (layers + 1))
        # Weights, gradients and what the optimizer remembers of them; logits, and what their gradient needs.
        copies = 3 if self.optimizer == "sgd" else 5
        return model and model + 4 * (copies * layers * width**2 + 5 * TOKENS_AT_ONCE * text.vocab_size)

    def _layers_per_shard(self, text: Any) -> int:
        """So many that training their translators takes as long as the model's forward pass.

        In products per token: about 12 width^2 for a block, 2 width * vocabulary for the logits of a layer and their
        gradient, and 3 width^2 for its translator.
        """
        if self.layers_per_shard is not None:
            return min(self.layers_per_shard, text.num_hidden_layers)
        of_model = 12 * text.hidden_size * text.num_hidden_layers
        return min(text.num_hidden_layers, -(-of_model // (2 * text.vocab_size + 3 * text.hidden_size)))

    def _corpus_files(self, run: RunFolder | None, notes: Notes | None = None) -> list[CorpusFile]:
        return corpus_files(self.corpus, notes, recorded_commits(run))

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.model, self.revision, self.trust_remote_code, self.dtype, self.quantization)
