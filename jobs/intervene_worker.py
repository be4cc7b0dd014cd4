"""The worker of the intervene stage: for each image the unchanged pass, and the changed ones that go on from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from jobs.base import Progress, no_progress
from jobs.intervene_edits import EditedImage, WordEditor
from jobs.intervene_settings import InterveneSettings
from jobs.intervene_targets import is_background
from jobs.model_file import record_or_check_weights
from lenscore.images.image_files import MAX_PIXELS, ImageFile, open_image
from lenscore.images.preprocessing import Batch, BatchReader
from lenscore.index.contextual_index import ContextualIndex
from lenscore.interventions.attribution import attention_maps
from lenscore.interventions.knockout import knockout_effects, knockouts_of, windows_of
from lenscore.interventions.substitutes import Candidates, Substitutes, candidates_of
from lenscore.interventions.substitution import AnsweredPass, Effect, Substitution, Target, substitutions_of
from lenscore.lenses import Lens, VectorLens
from lenscore.lenses.logit import LogitLens
from lenscore.models.changed_states import ChangedStates, states_changed
from lenscore.models.decoder import require_room, text_config_of
from lenscore.models.fingerprints import weights_fingerprint
from lenscore.models.greedy_answer import followed_by, greedy_answer, greedy_answers
from lenscore.models.loading import Vlm
from lenscore.models.recorded_pass import RecordedPass
from lenscore.readings.words import token_text
from lenscore.user_files.finding import path_from_stored
from storage_layouts.errors import InputError
from storage_layouts.interventions import TABLES, write_tables
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
        self._editor = WordEditor(settings, facts.get("other_words", {}), vectors, index, vlm.tokenizer, results)
        self._head = LogitLens.from_model(vlm)
        prompt = results.prompt if settings.prompt is None else settings.prompt
        self._reader = BatchReader(vlm, prompt, 1)
        limit = results.run.config.get("max_pixels", MAX_PIXELS)
        lines = {line["image_id"]: line for line in results.images().to_pylist()}
        self._sample = json.loads(run.read_plan_file(SAMPLE))["images"]
        self._files = [
            ImageFile(path_from_stored(line["path"]), line["sha256"], line["bytes"], line["caption"], limit)
            for line in (lines[image["image_id"]] for image in self._sample)
        ]

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Measure the effects on the shard's images and write them. Raises InputError for an image that has changed."""
        tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        items, empty = range(shard.first, shard.stop), 0
        for done, batch in enumerate(self._reader.read([(i, self._files[i]) for i in items])):
            for reason in batch.unreadable.values():
                raise InputError(f"{self._files[items[done]].path}: was readable when it was analysed ({reason})")
            found, answer = self._measured(items[done], batch, partial(progress, done))
            for name, lines in found.items():
                tables[name] += lines
            empty += not self._vlm.tokenizer.decode(answer, skip_special_tokens=True).strip()
            progress(done + 1)
        files = self._model_file | write_tables(self._run.path, shard.index, tables)
        return Receipt(shard.index, shard.items, files, {"empty_answers": empty} if empty else {})

    def _measured(
        self, number: int, batch: Batch, progress: Callable[[], None]
    ) -> tuple[dict[str, list[dict[str, Any]]], Tensor]:
        """The lines of one image in each table, and the ids of the answer."""
        model, image = self._vlm.model, self._sample[number]
        inputs = batch.on_device(self._vlm)
        answer = self._answer(self._files[number], inputs)
        recorded = RecordedPass(model, followed_by(model, inputs, answer))
        patches = batch.geometries[0].patches
        positions = np.array([patch.position for patch in patches], np.int64)
        passed = AnsweredPass(recorded, answer, positions, self._head)
        numbers: dict[tuple[int, ...], int] = {(one.view, one.row, one.col): i for i, one in enumerate(patches)}
        targets = list(_targets(image, numbers, self._settings.target_names))
        asks_lenses = self._names or self._settings.edited_words
        found = list(self._candidates(image["image_id"], passed.visual_tokens)) if asks_lenses else []
        edits, answers = self._edits(number, passed, found, numbers, inputs, answer, progress)
        drawn = number < self._settings.attention
        lines = {
            "effects": list(self._effects(number, passed, found, targets, progress)) if self._names else [],
            "edits": edits,
            "answers": answers,
            "knockouts": list(self._knockouts(image, passed, targets, progress)),
            "attention": list(self._attention(image["image_id"], passed, answer)) if drawn else [],
        }
        return lines, answer

    def _effects(
        self,
        number: int,
        passed: AnsweredPass,
        found: Sequence[tuple[int, dict[str, Candidates]]],
        targets: Sequence[Target],
        progress: Callable[[], None],
    ) -> Iterator[dict[str, Any]]:
        """The lines of the substitutions, in their order."""
        image_id = self._sample[number]["image_id"]
        for layer, of_lens in found:
            item = f"{self._files[number].sha256}/{layer}"
            made = list(substitutions_of(targets, self._names, passed.states(layer), of_lens, self._substitutes, item))
            effects = passed.effects(layer, made, self._settings.batch_tokens, progress)
            for one, effect in zip(made, effects, strict=True):
                yield _line(image_id, layer, one, effect)

    def _edits(
        self,
        number: int,
        passed: AnsweredPass,
        found: Sequence[tuple[int, dict[str, Candidates]]],
        numbers: Mapping[tuple[int, ...], int],
        inputs: dict[str, Tensor],
        answer: Tensor,
        progress: Callable[[], None],
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The lines of words that are erased and written, and those of the answers then."""
        if not self._settings.edited_words:
            return [], []
        most, image = self._settings.max_new_tokens, self._sample[number]
        is_own = self._settings.answer == "generated"
        generated = answer if is_own else greedy_answer(self._vlm.model, inputs, most)

        def answers(layer: int, changed: Sequence[ChangedStates]) -> list[Tensor]:
            picture = open_image(self._files[number])
            batch = self._reader.batch_of(dict(enumerate([picture] * len(changed))))
            with states_changed(self._vlm.model, layer, changed):
                return greedy_answers(self._vlm.model, batch.on_device(self._vlm), most)

        edited = EditedImage(
            *(image["image_id"], self._files[number].sha256, image["at"], numbers, passed, generated, is_own, answers)
        )
        return self._editor.lines(edited, found, progress)

    def _knockouts(
        self, image: Mapping[str, Any], passed: AnsweredPass, targets: Sequence[Target], progress: Callable[[], None]
    ) -> Iterator[dict[str, Any]]:
        """The lines of blocked attention, in their order; a background that the truth names is no object here."""
        targets = [one for one in targets if one.kind != "object" or not is_background(image["objects"][one.number])]
        settings, depth = self._settings, len(passed.recorded.states) - 1
        windows = windows_of(settings.knockout_sizes, settings.knockout_step, depth)
        asked = list(knockouts_of(targets, settings.knockout_sources, windows))
        for one, effect in knockout_effects(passed, asked, settings.batch_tokens, progress):
            window = {"from": one.source, "layer": one.window.first, "layers": one.window.layers}
            yield _of_target(image["image_id"], one.target) | window | effect._asdict()

    def _attention(self, image_id: int, passed: AnsweredPass, answer: Tensor) -> Iterator[dict[str, Any]]:
        """The lines of the attention of an answer, by token, kind and layer."""
        maps = attention_maps(passed)
        for number, token in enumerate(answer.tolist()):
            text = token_text(self._vlm.tokenizer, token)
            for kind, weights in maps._asdict().items():
                for layer, row in enumerate(weights[:, number].numpy()):
                    line = {"image_id": image_id, "number": number, "token": token, "text": text}
                    yield line | {"kind": kind, "layer": layer, "weights": row}

    def _answer(self, file: ImageFile, inputs: dict[str, Tensor]) -> Tensor:
        """Token ids of the answer. InputError if there are none, or too many for the model."""
        if self._settings.answer == "generated":
            ids = greedy_answer(self._vlm.model, inputs, self._settings.max_new_tokens)
        else:
            found = self._vlm.tokenizer(file.caption or "", add_special_tokens=False)["input_ids"]
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


def _targets(image: dict[str, Any], numbers: Mapping[tuple[int, ...], int], names: Sequence[str]) -> Iterator[Target]:
    def of(places: Iterable[list[int]]) -> np.ndarray:
        return np.array(sorted(numbers[tuple(place)] for place in places), np.int64)

    if "patches" in names:
        yield from (Target("patch", numbers[tuple(place)], of([place])) for place in image["patches"])
    if "objects" in names:
        yield from (Target("object", number, of(found["patches"])) for number, found in enumerate(image["objects"]))
    yield from (Target(found["target"], found["number"], of(found["patches"])) for found in image.get("others", ()))
    if "all" in names:
        yield Target("all", 0, np.arange(len(numbers)))


def _of_target(image_id: int, target: Target) -> dict[str, Any]:
    return {"image_id": image_id, "target": target.kind, "number": target.number, "tokens": len(target.tokens)}


def _line(image_id: int, layer: int, one: Substitution, effect: Effect) -> dict[str, Any]:
    return _of_target(image_id, one.target) | {
        "layer": layer,
        "lens": one.lens,
        "substitute": one.substitute,
        "word": one.words[0] if one.words else -1,
        **effect.measures(),
    }
