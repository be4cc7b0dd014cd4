"""The train stage: a connector between a frozen language model and a frozen vision encoder, from captions alone.

A shard is a span of steps. Its receipt names the losses of these steps; what the next span begins from lies in
`state/`, and the last span saves the model. The spans are taken in order, so `lens status` shows how far a training is,
and a kill costs the span in hand.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from jobs.base import command_line
from jobs.model_file import as_recorded, commit_of, model_identity, record_or_check_weights
from jobs.train_settings import TrainSettings
from jobs.train_worker import TrainWorker
from lenscore.models.decoder import text_config_of
from lenscore.models.fingerprints import weights_fingerprint
from lenscore.models.weights import cpu_multiplies_bfloat16
from lenscore.training.assembly import (
    Parts,
    assemble,
    image_processor_for,
    patches_of_an_image,
    require_llm,
    tokenizer_of,
    vision_config_of,
)
from lenscore.training.batches import BatchOrder, CaptionBatches
from lenscore.training.examples import Examples, TextRules
from lenscore.training.pairs import Columns, Pair, find_pairs, fingerprint
from lenscore.training.published_connectors import connector_commit, start_from
from lenscore.training.top_bottom import top_bottom_pairs
from lenscore.training.trainer import ARITHMETIC, ConnectorTrainer, Recipe, parts_of
from lenscore.user_files.notes import Notes
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import FileDigest
from storage_layouts.runs import RunFolder
from storage_layouts.tables import parse_table, write_table

PAIR_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("prompt", pa.string()),
        ("caption", pa.string()),
    ]
)

_NOT_OF_THE_MODEL = {
    *("data", "image_column", "caption_column", "top_bottom"),
    *("micro_batch_size", "steps_per_shard", "save_at", "trust_remote_code"),
}


@dataclass(frozen=True)
class TrainJob(TrainSettings):
    """Train a connector that joins a frozen LLM and a frozen vision encoder, on images with captions.

    The result is RUN/model, a vision-language model like any other.
    """

    @property
    def upstream(self) -> tuple[Path, ...]:
        """None."""
        return ()

    def open_run(self) -> RunFolder:
        """Check everything that can be checked without the weights; create the run folder or take it up again."""
        llm, vision = self._llm_identity, vision_config_of(self._parts)
        image_processor_for(self._parts)
        inputs = {
            "data": self._data_identity(),
            "llm": llm,
            "vision": {"architecture": vision.model_type, "revision": getattr(vision, "_commit_hash", None)},
        }
        if self.start_from and (commit := connector_commit(self.start_from, self.start_from_revision)):
            inputs["start_from"] = {"revision": commit}
        settings = self.recorded()
        run = RunFolder.create(
            self.out, self.stage, settings, as_recorded(self.out, inputs), command_line(self, settings)
        )
        _require_same_arithmetic(run)
        return run

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """List the pairs; nothing if a plan is there. Without a step there still is one shard: it saves the model."""
        if run.plan is not None:
            return
        progress(f"planning: {counted(len(self._pairs), 'image')} with captions")
        if self._data_identity() != run.inputs["data"]:
            raise InputError(f"--data {self.data}: changed since the command began; choose a new --out")
        examples = Examples(tokenizer_of(self._parts), self.image_token, patches_of_an_image(self._parts), self._rules)
        positions = getattr(text_config_of(require_llm(self._parts)), "max_position_embeddings", None)
        examples.require_room(self._pairs, positions, self._notes)
        table = pa.Table.from_pylist([asdict(pair) for pair in self._pairs], PAIR_SCHEMA)
        run.settle()
        files = {"pairs.parquet": write_table(run.path / "pairs.parquet", table, PAIR_SCHEMA)}
        facts = {"pairs": len(self._pairs), "notes": self._notes.lines(), "arithmetic": ARITHMETIC}
        run.write_plan(max(self.steps, 1), self.steps_per_shard, files, facts)

    def open_worker(self, run: RunFolder, device: str) -> TrainWorker:
        """Load both models onto the device; further processes of accelerate each take a share of every batch."""
        _require_same_arithmetic(run)
        if device != "cpu":
            # Equal commands give equal bytes: sums in a fixed order, also in the backward pass.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        accelerator = Accelerator(
            cpu=device == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=self.unfreeze_vit)],
        )
        processes = accelerator.num_processes
        if processes > 1 and self.batch_size % (self.micro_batch_size * processes):
            raise InputError(
                f"--batch-size {self.batch_size}: cannot be shared by {processes} processes with "
                f"--micro-batch-size {self.micro_batch_size}; expected a multiple of "
                f"{self.micro_batch_size * processes}"
            )
        begin = partial(self._trainer, run, accelerator)
        return TrainWorker(run, begin, accelerator.is_main_process, self.steps, self.saved_steps)

    def _trainer(self, run: RunFolder, accelerator: Accelerator) -> tuple[ConnectorTrainer, Any, dict[str, FileDigest]]:
        """The training before its first step, the processor, and model.json for the receipts."""
        data = run.read_plan_file("pairs.parquet")
        pairs = [Pair(**row) for row in parse_table(run.path / "pairs.parquet", data, PAIR_SCHEMA).to_pylist()]
        parts = replace(
            self._parts,
            llm_revision=commit_of(run, "llm") or self._parts.llm_revision,
            vision_revision=commit_of(run, "vision") or self._parts.vision_revision,
        )
        model, processor = assemble(parts, self.seed, getattr(torch, self.precision))
        model.config.made_of = {name: run.config[name] for name in sorted(run.config) if name not in _NOT_OF_THE_MODEL}
        if self.start_from:
            start_from(model, self.start_from, commit_of(run, "start_from") or self.start_from_revision)
        in_bfloat16 = self.precision == "bfloat16" and (accelerator.device.type != "cpu" or cpu_multiplies_bfloat16())
        if not in_bfloat16:
            model.float()
        rates = (self.learning_rate, self.llm_learning_rate, self.vit_learning_rate)
        trained = parts_of(
            model, self.unfreeze_llm, self.unfreeze_vit, rates, (self.warmup_steps, self.unfrozen_warmup_steps)
        )
        model_file = record_or_check_weights(run, weights_fingerprint(model))
        order = BatchOrder(len(pairs), self.batch_size, self.seed)
        share = (self.micro_batch_size, accelerator.process_index, accelerator.num_processes)
        batches = CaptionBatches(pairs, processor, model.config.image_seq_length, self._rules, order, *share)
        recipe = Recipe(self.steps, self.last_rate, self.weight_decay, self.clip, in_bfloat16)
        return ConnectorTrainer(model, trained, batches, recipe, accelerator), processor, model_file

    def input_paths(self) -> Sequence[Path] | None:
        """Those of the settings, and the files of the images, which a table may name."""
        paths = super().input_paths()
        return paths and [*paths, *{Path(pair.source) for pair in self._pairs}]

    def _data_identity(self) -> dict[str, Any]:
        return {"count": len(self._pairs), "sha256": fingerprint(self._pairs)}

    @cached_property
    def _pairs(self) -> list[Pair]:
        if self.top_bottom:
            return top_bottom_pairs(self.data, Path(self.top_bottom), self._notes)
        return find_pairs(self.data, Columns(self.image_column, self.caption_column, self.prompt_column), self._notes)

    @cached_property
    def _notes(self) -> Notes:
        """What `_pairs` left out."""
        return Notes()

    @property
    def _rules(self) -> TextRules:
        return TextRules(self.prompt, self.first_sentence, self.max_tokens)

    @cached_property
    def _parts(self) -> Parts:
        try:
            layers = tuple(int(layer) for layer in self.vit_layers.split(","))
        except ValueError:
            raise InputError(f"--vit-layers {self.vit_layers}: expected numbers as in -2,-9") from None
        return Parts(
            self.llm,
            self.vision,
            self.connector,
            self.connector_hidden_size,
            layers,
            self.image_fit,
            self.image_size,
            self.image_token,
            self.trust_remote_code,
            self.llm_revision or None,
            self.vision_revision or None,
        )

    @cached_property
    def _llm_identity(self) -> dict[str, Any]:
        """Computed once, before the image token is added to the tokenizer."""
        return model_identity(require_llm(self._parts), self._parts.language.tokenizer)


def _require_same_arithmetic(run: RunFolder) -> None:
    """InputError if the rest of an unfinished run would round otherwise than what is there."""
    if run.plan is None or run.is_complete():
        return
    if run.plan.facts.get("arithmetic", 1) != ARITHMETIC:
        raise InputError(
            f"{run.path}: begun by a version of lenscore whose steps round otherwise; finish it with that version, or "
            "choose a new --out"
        )
