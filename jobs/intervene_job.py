"""The intervene stage: forward passes with other states in the place of those of visual tokens, by image.

It goes on from an analyze run: its model, prompt, images and candidates. An item of the plan is one image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.analyzed_results import results_begun_with
from jobs.base import command_line
from jobs.intervene_edits import edited_places, passes_of_edits, words_looked_up
from jobs.intervene_settings import InterveneSettings
from jobs.intervene_targets import Targets, count_targets
from jobs.intervene_worker import SAMPLE, InterveneWorker
from jobs.worker_memory import cache_bytes, tokens_of_input, worker_bytes
from lenscore.analysis.store_compatibility import require_same_weights
from lenscore.images.preprocessing import require_no_placeholder
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.search_memory import search_memory
from lenscore.interventions.knockout import WHOLE_MODEL, windows_of
from lenscore.interventions.names import LENS_SUBSTITUTES, USUAL_TARGETS
from lenscore.judging.patches import readable_images, sample_patches
from lenscore.lenses import build_lenses, has_vectors, lenses_named
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import text_config_of
from lenscore.models.loading import vlm_of
from lenscore.models.recorded_pass_checks import require_attention, require_blockable, require_resumable
from lenscore.word_maps.word_truth import WordTruth
from storage_layouts.errors import InputError
from storage_layouts.files import digest_file, json_bytes, write_atomic
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.tuned_lens import TunedLensFiles


@dataclass(frozen=True)
class InterveneJob(InterveneSettings):
    """Replace the states of visual tokens by what lenses say, and measure what it does to the model's answer."""

    @property
    def upstream(self) -> tuple[Path, ...]:
        """The analyze run."""
        return (self.results,)

    def open_run(self) -> RunFolder:
        """Check the settings against the results; create the run folder or resume it."""
        results = self._results
        _ = results.prompt  # raises InputError for results whose images cannot run again
        self._checkpoint.require_vision()
        self._require(results)
        path = str(self.results.resolve())
        config = self.recorded() | {"results": path}
        inputs: dict[str, Any] = {
            "results": {"path": path, "run_id": results.run.run_id},
            "model": results.run.inputs["model"],
        }
        if self.truth not in ("", "shapes"):
            inputs["truth"] = vars(digest_file(Path(self.truth)))
        return RunFolder.create(self.out, self.stage, config, inputs, command_line(self, config))

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Choose the patches of each image, and the patches of its objects, unless the run has a plan."""
        if run.plan is not None:
            return
        results = results_begun_with(self.results, run)
        progress("choosing patches")
        readable = readable_images(results.images(), results.geometry())
        count = len(readable) if self.images is None else min(self.images, len(readable))
        sample = sample_patches(
            readable, count * self.patches, self.seed, lambda image: image.places, count, self.patches
        )
        if not sample:
            raise InputError(f"{self.results}: has no readable image")
        by_id = {image.image_id: image for image in readable}
        chosen = [by_id[image_id] for image_id in sorted({place.image_id for place in sample})]
        truth = WordTruth.of(self.truth, chosen) if self.truth else None
        targets = Targets(self.target_names, results, chosen, truth, self.cover, self.seed)
        described: list[dict[str, Any]] = []
        for image in chosen:
            mine = [place for place in sample if place.image_id == image.image_id]
            patches = sorted([place.view, place.row, place.col] for place in mine)
            objects = targets.objects(image)
            at = edited_places(self, image, patches, objects)
            line = {"image_id": image.image_id, "patches": patches, "objects": objects, "at": at}
            described.append(line if self.target_names == USUAL_TARGETS else line | {"others": targets.others(image)})
        facts = {
            "layers": self._layers(results),
            "lenses": self._lenses(results),
            "substitutes": list(self.substitute_names),
            "passes": sum(
                passes * sum(count_targets(image, self.target_names, knockouts) for image in described)
                for passes, knockouts in ((self._substitutions(results), False), (self._knockouts, True))
            ),
            "other_words": words_looked_up(self, results, self._lenses(results), self._checkpoint.tokenizer)
            if self.edited_words
            else {},
            "notes": list(truth.notes) if truth else [],
        }
        run.settle()
        files = {SAMPLE: write_atomic(run.path / SAMPLE, json_bytes({"images": described}))}
        run.write_plan(len(described), self.images_per_shard, files, facts)

    def open_worker(self, run: RunFolder, device: str, index_memory: int | None = None) -> InterveneWorker:
        """Load the model and the lenses; check that they are those of the results, and that passes can be resumed."""
        results = results_begun_with(self.results, run)
        vlm = vlm_of(self._checkpoint, device)
        require_resumable(vlm)
        if self.knockout_sizes:
            require_blockable(vlm)
        if self.attention:
            require_attention(vlm)
        facts = run.require_plan().facts
        index = None
        kinds = lenses_named(",".join(facts["lenses"]))
        if any(lens.needs_store for lens in kinds):
            store = results.store()
            assert store is not None  # the lens was in the results
            require_same_weights(store, vlm)
            searched = results.run.require_plan().facts["contextual_layers"]
            index = ContextualIndex.from_store(store, searched, vlm.devices, index_memory)
        tuned = results.run.inputs.get("tuned")
        lenses = build_lenses(kinds, vlm, index, TunedLensFiles.open(Path(tuned["path"])) if tuned else None)
        return InterveneWorker(self, run, results, vlm, lenses, index)

    def extra_work(self) -> Mapping[str, str]:
        """See `jobs.base.CostlyJob`."""
        of_target, names = self._substitutions(self._results) + self._knockouts, self.target_names
        known = self.patches * ("patches" in names) + ("all" in names)
        more = f", and {of_target:,} for each object" if self.truth and "objects" in names else ""
        others = [name for name in names if name not in USUAL_TARGETS]
        more += f", and as many for {' and '.join(others)}" if others else ""
        work = {"passes": f"{known * of_target:,} changed ones an image{more}"} if of_target else {}
        if self.edited_words:
            edits = passes_of_edits(self, len(self._lenses(self._results)), len(self._layers(self._results)))
            work["edits"] = f"at most {edits:,} changed passes an image, each with an answer where it differs"
        return work

    def worker_bytes(self, index_memory: int | None = None) -> int | None:
        """See `jobs.base.ModelJob`."""
        text = text_config_of(self._checkpoint.config)
        image, prompt = tokens_of_input(self._checkpoint, self._prompt)
        sequence = image + prompt + self.max_new_tokens
        tokens = max(sequence, self.batch_tokens)
        recorded = sequence * (text.num_hidden_layers + 1)
        kept = tokens if self.edited_words else sequence  # answers are generated together
        logits = 8 * 4 * self.max_new_tokens * text.vocab_size
        # Scores and weights of all heads, and the rollout.
        weights = 4 * sequence**2 * (3 * text.num_attention_heads + 4) if self.attention else 0
        own = cache_bytes(text, kept) + logits + weights
        if any(lens.needs_store for lens in lenses_named(",".join(self._lenses(self._results)))):
            store, searched = self._results.store(), self._results.run.require_plan().facts["contextual_layers"]
            assert store is not None
            own += search_memory(store.layout, len(searched), 1, 1, index_memory).tables  # rows of it are read
        return worker_bytes(self._checkpoint, tokens, recorded + tokens, own)

    @cached_property
    def _results(self) -> LensResults:
        return LensResults.open(self.results, allow_incomplete=True)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint.of_run(self._results.run, self.trust_remote_code, self.dtype)

    @property
    def _prompt(self) -> str:
        return self._results.prompt if self.prompt is None else self.prompt

    def _require(self, results: LensResults) -> None:
        """Raises InputError for settings that the results do not have."""
        layers, depth = self._layers(results), text_config_of(self._checkpoint.config).num_hidden_layers
        self._lenses(results)
        if self.prompt is not None:
            require_no_placeholder(self.prompt, self._checkpoint.config, self._checkpoint.tokenizer)
        if self.edited_words and depth in layers:
            raise InputError(
                "--layers: the output of the last block is no input of a block, where words are erased and written; "
                "leave it out"
            )
        for size in self.knockout_sizes:
            if size != WHOLE_MODEL and int(size) > depth:
                raise InputError(f"--knockout {size}: the model has {depth} layers; expected at most that many, or all")
        if self.nearest > results.top_k:
            raise InputError(
                f"--nearest {self.nearest}: {self.results} keeps {results.top_k} candidates; expected at most that many"
            )
        if self.answer == "caption" and not any(results.images()["caption"].to_pylist()):
            raise InputError(f"--answer caption: {self.results} has no captions; leave the flag out")

    def _layers(self, results: LensResults) -> list[int]:
        if self.layers == "all":
            return list(results.mean_layers)
        known = [str(layer) for layer in results.layers]
        depth = text_config_of(self._checkpoint.config).num_hidden_layers
        found = set()
        for name in self.layers.split(","):
            name = name.strip()
            layer = str(int(name) % depth) if name.startswith("-") and name[1:].isdecimal() else name
            if layer not in known:
                raise InputError(f"--layers: {self.results} has no layer {name!r}; expected some of {', '.join(known)}")
            found.add(int(layer))
        return sorted(found)

    def _lenses(self, results: LensResults) -> list[str]:
        usable = [lens.name for lens in lenses_named(",".join(results.lenses)) if has_vectors(lens)]
        if self.lenses == "all":
            return usable
        asked = [name.strip() for name in self.lenses.split(",")]
        for name in asked:
            if name not in usable:
                raise InputError(f"--lenses: no {name!r} in {self.results}; expected some of {', '.join(usable)}")
        return [name for name in usable if name in asked]

    def _substitutions(self, results: LensResults) -> int:
        """Number of changed forward passes for each target of an image that replace its states."""
        lenses = len(self._lenses(results))
        names = self.substitute_names
        return sum(lenses if name in LENS_SUBSTITUTES else 1 for name in names) * len(self._layers(results))

    @property
    def _knockouts(self) -> int:
        """Number of those that block attention to it."""
        depth = text_config_of(self._checkpoint.config).num_hidden_layers
        windows = windows_of(self.knockout_sizes, self.knockout_step, depth)
        return len(windows) * len(self.knockout_sources)
