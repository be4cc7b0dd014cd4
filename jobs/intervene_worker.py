"""The worker of the intervene stage: for each image the unchanged pass, and the changed ones that go on from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from jobs.base import Progress, no_progress
from jobs.intervene_settings import InterveneSettings
from jobs.model_file import record_or_check_weights
from lenscore.images.image_files import MAX_PIXELS, ImageFile
from lenscore.images.preprocessing import Batch, BatchReader
from lenscore.index.contextual_index import ContextualIndex
from lenscore.interventions.substitutes import Candidates, Substitutes, candidates_of
from lenscore.interventions.substitution import AnsweredPass, Effect, Substitution, Target, substitutions_of
from lenscore.lenses import Lens, VectorLens
from lenscore.lenses.logit import LogitLens
from lenscore.models.decoder import require_room, text_config_of
from lenscore.models.fingerprints import weights_fingerprint
from lenscore.models.greedy_answer import followed_by, greedy_answer
from lenscore.models.loading import Vlm
from lenscore.models.recorded_pass import RecordedPass
from lenscore.user_files.finding import path_from_stored
from storage_layouts.errors import InputError
from storage_layouts.interventions import EFFECTS, write_effects
from storage_layouts.results import LensResults
from storage_layouts.runs import Receipt, RunFolder, Shard
from storage_layouts.tables import matrix_of_lists

SAMPLE = "sample.json"
"""The images of a run, with the patches and objects that are replaced."""


class InterveneWorker:
    """Writes the effects of the substitutions on shards of images, with one model on one device."""

    def __init__(
        self,
        settings: InterveneSettings,
        run: RunFolder,
        results: LensResults,
        vlm: Vlm,
        lenses: Sequence[Lens],
        index: ContextualIndex | None,
    ) -> None:
        self._settings, self._run, self._results, self._vlm = settings, run, results, vlm
        self._model_file = record_or_check_weights(run, weights_fingerprint(vlm.model))
        facts = run.require_plan().facts
        self._layers, self._lenses, self._names = facts["layers"], facts["lenses"], facts["substitutes"]
        vectors = {lens.name: lens for lens in lenses if isinstance(lens, VectorLens)}
        self._of_rows = {lens.name for lens in lenses if lens.ids == "rows"}
        embeddings = vlm.model.get_input_embeddings().weight.detach()
        self._substitutes = Substitutes(vectors, embeddings, index, settings.nearest, settings.seed)
        self._head = LogitLens.from_model(vlm)
        self._reader = BatchReader(vlm, results.run.config["prompt"], 1)
        limit = results.run.config.get("max_pixels", MAX_PIXELS)
        lines = {line["image_id"]: line for line in results.images().to_pylist()}
        self._sample = json.loads(run.read_plan_file(SAMPLE))["images"]
        self._files = [
            ImageFile(path_from_stored(line["path"]), line["sha256"], line["bytes"], line["caption"], limit)
            for line in (lines[image["image_id"]] for image in self._sample)
        ]

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Measure the effects on the shard's images and write them. Raises InputError for an image that has changed."""
        lines: list[dict[str, Any]] = []
        items = range(shard.first, shard.stop)
        for done, batch in enumerate(self._reader.read([(i, self._files[i]) for i in items])):
            for reason in batch.unreadable.values():
                raise InputError(f"{self._files[items[done]].path}: was readable when it was analysed ({reason})")
            lines += self._effects(items[done], batch, partial(progress, done))
            progress(done + 1)
        table = pa.Table.from_pylist(lines, schema=EFFECTS)
        files = self._model_file | write_effects(self._run.path, shard.index, table)
        return Receipt(shard.index, shard.items, files, {})

    def _effects(self, number: int, batch: Batch, progress: Callable[[], None]) -> Iterator[dict[str, Any]]:
        """The lines of one image, in the order of the substitutions."""
        model, image = self._vlm.model, self._sample[number]
        inputs = batch.on_device(self._vlm)
        answer = self._answer(self._files[number], inputs)
        recorded = RecordedPass(model, followed_by(model, inputs, answer))
        patches = batch.geometries[0].patches
        positions = np.array([patch.position for patch in patches], np.int64)
        passed = AnsweredPass(recorded, answer, positions, self._head)
        numbers: dict[tuple[int, ...], int] = {(one.view, one.row, one.col): i for i, one in enumerate(patches)}
        targets = list(_targets(image, numbers))
        for layer, found in self._candidates(image["image_id"], len(patches)):
            item = f"{self._files[number].sha256}/{layer}"
            made = list(substitutions_of(targets, self._names, passed.states(layer), found, self._substitutes, item))
            effects = passed.effects(layer, made, self._settings.batch_tokens, progress)
            for one, effect in zip(made, effects, strict=True):
                yield _line(image["image_id"], layer, one, effect)

    def _answer(self, file: ImageFile, inputs: dict[str, Tensor]) -> Tensor:
        """Token ids of the answer. InputError if there are none, or too many for the model."""
        if self._settings.answer == "generated":
            ids = greedy_answer(self._vlm.model, inputs, self._settings.max_new_tokens)
        else:
            found = self._vlm.tokenizer(file.caption, add_special_tokens=False)["input_ids"]
            ids = torch.tensor(found[: self._settings.max_new_tokens], dtype=torch.int64, device=self._vlm.device)
        if not len(ids):
            raise InputError(f"{file.path}: has no caption; expected one for each image with --answer caption")
        total = inputs["input_ids"].shape[1] + len(ids)
        what = f"{file.path}: {total:,} tokens with prompt and answer"
        require_room(total, text_config_of(self._vlm.model.config), what, "shorten --max-new-tokens")
        return ids

    def _candidates(self, image_id: int, patches: int) -> Iterator[tuple[int, dict[str, Candidates]]]:
        """The layers, and what the run's lenses found there on an image."""
        table = self._results.results(image_ids=[image_id])
        for layer in self._layers:
            found = {}
            for lens in self._lenses:
                mine = table.filter(pc.and_(pc.equal(table["layer"], layer), pc.equal(table["lens"], lens)))
                if len(mine) != patches:
                    raise InputError(
                        f"--results {self._results.path}: has {len(mine)} patches of image {image_id}, this model "
                        f"{patches}; expected the model and the images of the analysis"
                    )
                contexts = matrix_of_lists(mine["contextual_layers"]) if lens in self._of_rows else None
                found[lens] = candidates_of(matrix_of_lists(mine["ids"]), contexts)
            yield layer, found


def _targets(image: dict[str, Any], numbers: Mapping[tuple[int, ...], int]) -> Iterator[Target]:
    def of(places: Iterable[list[int]]) -> np.ndarray:
        return np.array(sorted(numbers[tuple(place)] for place in places), np.int64)

    for place in image["patches"]:
        yield Target("patch", numbers[tuple(place)], of([place]))
    for number, found in enumerate(image["objects"]):
        yield Target("object", number, of(found["patches"]))
    yield Target("all", 0, np.arange(len(numbers)))


def _line(image_id: int, layer: int, one: Substitution, effect: Effect) -> dict[str, Any]:
    target = one.target
    return {
        "image_id": image_id,
        "target": target.kind,
        "number": target.number,
        "tokens": len(target.tokens),
        "layer": layer,
        "lens": one.lens,
        "substitute": one.substitute,
        "word": one.word,
        **effect._asdict(),
    }
