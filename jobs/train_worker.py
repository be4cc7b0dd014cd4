"""The worker of the train stage: a shard is a span of steps; it gives losses, and the last one the model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from jobs.base import STATES, Progress, no_progress
from lenscore.training.checkpoints import newest_state, save_state
from lenscore.training.trainer import ConnectorTrainer, StepRecord
from storage_layouts.files import LEFTOVER_SUFFIX, FileDigest, digest_file, make_folder, sync_tree, write_json
from storage_layouts.runs import Receipt, RunFolder, Shard

MODEL_FOLDER = "model"


def model_folder_at(step: int) -> str:
    """Where in the run folder the model of a step is that `--save-at` keeps."""
    return f"models/step-{step}"


class TrainWorker:
    """Trains on one device, or as one of several processes of accelerate.

    Before the steps in ``save_at``, the model is saved too.
    """

    def __init__(
        self,
        run: RunFolder,
        begin: Callable[[], tuple[ConnectorTrainer, Any, dict[str, FileDigest]]],
        writes: bool,
        steps: int,
        save_at: Collection[int] = (),
    ) -> None:
        self._run, self._begin, self._writes, self._steps, self._save_at = run, begin, writes, steps, save_at
        self._trainer, self._processor, self._model_file = begin()
        self._sound = True
        """Whether nothing has interrupted the trainer within a step, which leaves gradients behind."""

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Do the shard's steps from the latest saved state; write losses and state, and at the end the model.

        The receipt's facts list the unreadable images with the reason. Raises InputError if the loss is not finite.
        """
        self._go_to(shard.first, progress)
        self._sound = False
        files = dict(self._model_file)
        records: list[StepRecord] = []
        for step in range(shard.first, min(shard.stop, self._steps)):
            if self._writes and step in self._save_at:
                files |= self._save_model(model_folder_at(step), step)
            records.append(self._trainer.train_step())
            progress(len(records), f"loss {records[-1].loss:.4g}")
        if self._writes:
            name = f"losses/{shard.name}.json"
            files[name] = write_json(self._run.path / name, _columns(records))
            if shard.stop == self._run.require_plan().items:
                files |= self._save_model(MODEL_FOLDER)
            else:
                save_state(self._run.path / STATES, self._run.plan_id, self._trainer.step, self._trainer.state())
        self._sound = True
        unreadable = {index: reason for record in records for index, reason in record.unreadable.items()}
        listed = [{"pair": i, "path": self._trainer.source_of(i), "reason": unreadable[i]} for i in sorted(unreadable)]
        return Receipt(shard.index, shard.items, files, {"unreadable": listed})

    def _go_to(self, step: int, progress: Progress) -> None:
        """Bring the trainer to a step, from the latest saved state if there is one, else from the beginning."""
        if self._sound and self._trainer.step == step:
            return
        found = newest_state(self._run.path / STATES, self._run.plan_id, step)
        if not self._sound or self._trainer.step > step or (found and found[0] > self._trainer.step):
            if found:
                self._trainer.load_state(found[1], found[0])
            else:
                self._trainer, self._processor, self._model_file = self._begin()
        while self._trainer.step < step:
            progress(0, f"repeating step {self._trainer.step + 1:,} of {step:,}")
            self._trainer.train_step()

    def _save_model(self, name: str, step: int | None = None) -> dict[str, FileDigest]:
        """Save the model with transformers, each file atomically; leftovers of killed attempts are removed.

        ``step`` is recorded in the configuration of a model that is not trained to its end.
        """
        for leftover in self._run.path.glob(f".{MODEL_FOLDER}.*{LEFTOVER_SUFFIX}"):
            shutil.rmtree(leftover)
        folder = self._run.path / name
        make_folder(folder)
        aside = tempfile.mkdtemp(LEFTOVER_SUFFIX, f".{MODEL_FOLDER}.", self._run.path)
        made_of = {name: value for name, value in self._trainer.model.config.made_of.items() if name != "step"}
        self._trainer.model.config.made_of = made_of if step is None else {**made_of, "step": step}
        dtype = getattr(torch, self._run.config["precision"])
        save_model(self._trainer.model, self._processor, Path(aside), dtype)
        written = []
        for path in sorted(Path(aside).iterdir()):
            written.append(path.replace(folder / path.name))
        Path(aside).rmdir()
        sync_tree(written)
        return {f"{name}/{path.name}": digest_file(path) for path in written}


def save_model(model: Any, processor: Any, folder: Path, dtype: torch.dtype) -> None:
    """Save model and processor for `load_vlm`, all weights in ``dtype``."""
    exact = [(parameter, parameter.data) for parameter in model.parameters() if parameter.dtype != dtype]
    for parameter, data in exact:
        parameter.data = data.to(dtype)
    try:
        model.save_pretrained(folder)  # it writes the dtype of the first weight into the configuration
    finally:
        for parameter, data in exact:
            parameter.data = data
    processor.tokenizer.init_kwargs.pop("local_files_only", None)  # depends on the network at loading
    processor.save_pretrained(folder)


def _columns(records: list[StepRecord]) -> dict[str, Any]:
    """Records as columns: step, loss, gradient_norm, learning_rate, tokens."""
    names = ("step", "loss", "gradient_norm", "learning_rate", "tokens")
    return {name: [getattr(record, name) for record in records] for name in names}
