"""The worker of the tune stage: a shard is a group of layers; it gives their translators and what they achieve."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor

from jobs.base import STATES, Progress, no_progress
from lenscore.lenses.logit import LogitLens
from lenscore.models.decoder import number_of_layers
from lenscore.models.hidden_states import lens_states, run_until
from lenscore.models.loading import LanguageModel
from lenscore.models.text_only import text_inputs
from lenscore.models.weights import require_finite
from lenscore.training.batches import BatchOrder
from lenscore.training.checkpoints import newest_state, save_state
from lenscore.tuning.evaluation import Evaluations
from lenscore.tuning.translator_training import Recipe, TranslatorTrainer
from storage_layouts.files import FileDigest, write_atomic, write_json
from storage_layouts.runs import Receipt, RunFolder, Shard
from storage_layouts.tables import matrix_of_lists, parse_table
from storage_layouts.tuned_lens import measures, part, unembed_hash

SECONDS_BETWEEN_STATES = 120.0
"""So much is lost at most when a worker is killed within a shard."""
SEQUENCE_COLUMN = "token_ids"
_LOSSES = "losses"


def sequence_schema(length: int) -> pa.Schema:
    """Of training.parquet and held_out.parquet: one sequence of token ids a line."""
    return pa.schema([(SEQUENCE_COLUMN, pa.list_(pa.int32(), length))])


class TuneWorker:
    """Trains and evaluates the translators of shards, with one model on one device."""

    def __init__(
        self,
        run: RunFolder,
        llm: LanguageModel,
        recipe: Recipe,
        sequences_per_step: int,
        batch_tokens: int,
        seed: int,
        model_file: dict[str, FileDigest],
    ) -> None:
        self._run, self._llm, self._recipe, self._model_file = run, llm, recipe, model_file
        self._training, self._held_out = (self._sequences(name) for name in ("training.parquet", "held_out.parquet"))
        self._order = BatchOrder(len(self._training), sequences_per_step, seed)
        self._per_step = sequences_per_step
        self._per_batch = max(1, batch_tokens // self._training.shape[1])
        self._lens = LogitLens.for_use(llm, f"--model {llm.name}", "a Tuned Lens needs one, so choose another model")
        self._depth = number_of_layers(llm.model)

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Train the shard's layers from the latest saved state, evaluate them, and write both.

        Raises InputError for states or losses that are not finite.
        """
        of_a_layer = self._recipe.steps * self._per_step
        layers = range(shard.first // of_a_layer, shard.stop // of_a_layer)
        trainer = TranslatorTrainer(
            self._lens, layers, self._run.require_plan().facts["lens"]["d_model"], self._recipe, self._lens.device
        )
        losses = self._train(trainer, shard, progress)
        files = self._model_file | {
            part(shard.index): write_atomic(
                self._run.path / part(shard.index), safetensors.torch.save(trainer.weights())
            ),
            measures(shard.index): write_json(
                self._run.path / measures(shard.index), self._measured(trainer, losses, progress)
            ),
        }
        head = self._llm.model.get_output_embeddings().weight
        return Receipt(shard.index, shard.items, files, {"unembed_hash": unembed_hash(head)})

    def _train(self, trainer: TranslatorTrainer, shard: Shard, progress: Progress) -> list[list[float]]:
        """Do the steps that are left; returns the losses of all steps, one list a layer."""
        folder, plan = self._run.path / STATES / shard.name, self._run.plan_id
        losses = torch.zeros(self._recipe.steps, len(trainer.layers), dtype=torch.float64)
        if found := newest_state(folder, plan, self._recipe.steps):
            losses = found[1].pop(_LOSSES)
            trainer.load_state(found[1], found[0])
        saved = time.monotonic()
        while trainer.step < self._recipe.steps:
            step = trainer.step
            ids = self._training[self._order.of_step(step)]
            for batch in ids.split(self._per_batch):
                flat = {layer: state.flatten(0, 1) for layer, state in self._states(batch, trainer.layers).items()}
                trainer.add(flat, flat[self._depth], ids.numel())
            losses[step] = torch.tensor(trainer.update(), dtype=torch.float64)
            progress((step + 1) * self._per_step * len(trainer.layers), f"loss {float(losses[step].mean()):.4g}")
            if time.monotonic() - saved > SECONDS_BETWEEN_STATES and trainer.step < self._recipe.steps:
                save_state(folder, plan, trainer.step, {**trainer.state(), _LOSSES: losses})
                saved = time.monotonic()
        return losses.T.tolist()

    def _measured(self, trainer: TranslatorTrainer, losses: list[list[float]], progress: Progress) -> dict[str, Any]:
        """The content of the measures of a shard."""
        found = Evaluations(self._lens)
        for batch in self._held_out.split(self._per_batch):
            states = self._states(batch, trainer.layers)
            named = {f"logit {layer}": states[layer] for layer in trainer.layers}
            named |= {f"tuned {layer}": trainer.translated(layer, states[layer]) for layer in trainer.layers}
            found.add(batch, named, states[self._depth])
            progress(self._recipe.steps * self._per_step * len(trainer.layers), "evaluating")

        def of(name: str) -> dict[str, float]:
            one = found.found[name]
            return {"cross_entropy": one.cross_entropy, "divergence": one.divergence}

        return {
            "layers": [
                {"layer": layer, "losses": of_layer, "logit": of(f"logit {layer}"), "tuned": of(f"tuned {layer}")}
                for layer, of_layer in zip(trainer.layers, losses, strict=True)
            ],
            "final": of("final"),
        }

    def _states(self, ids: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """Hidden states [sequences, length, dim] of layers, and of layer N, the output of the last block."""
        model, wanted = self._llm.model, (*layers, self._depth)
        names = lens_states(wanted, self._depth)
        found = run_until(model, text_inputs(model, ids.to(self._llm.device)), names)
        states = {layer: found[name].to(self._lens.device) for layer, name in zip(wanted, names, strict=True)}
        require_finite(model, *states.values())
        return states

    def _sequences(self, name: str) -> Tensor:
        """Token ids int64 [sequences, length]."""
        schema = sequence_schema(self._run.config["tokens_per_sequence"])
        table = parse_table(self._run.path / name, self._run.read_plan_file(name), schema)
        return torch.from_numpy(matrix_of_lists(table[SEQUENCE_COLUMN]).astype(np.int64))
