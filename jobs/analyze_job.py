"""The analyze stage: images through a VLM, and the top k of each lens at every visual token and layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from jobs.analyze_settings import AnalyzeSettings
from jobs.analyze_tables import shard_tables
from jobs.base import Progress, command_line, no_progress
from jobs.model_file import as_recorded, commit_of, model_identity, record_or_check_weights
from jobs.worker_memory import cache_bytes, table_bytes, tokens_of_input, worker_bytes
from lenscore.analysis.engine import STATES_TOGETHER, AnalysisEngine
from lenscore.analysis.store_compatibility import (
    asked_layers,
    layers_to_search,
    require_candidates,
    require_same_text,
    require_same_weights,
    token_candidates,
)
from lenscore.images.geometry import family_of, unknown_family
from lenscore.images.image_files import MAX_PIXELS, ImageFile, find_images, open_image
from lenscore.images.preprocessing import (
    processed,
    prompt_with_image,
    require_no_placeholder,
    require_room_for_image,
)
from lenscore.images.table_cells import file_of
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.device_shares import room_on
from lenscore.index.search_memory import search_memory
from lenscore.lenses import (
    LatentLens,
    build_lenses,
    has_vectors,
    lenses_named,
    needs_prompt,
    needs_translators,
    reads_next_token,
)
from lenscore.lenses.patchscopes import PROMPT_FLAG, USUAL_PROMPT, Patchscopes, prompt_text, tokens_of_prompt
from lenscore.lenses.tuned import require_same_width
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import text_config_of
from lenscore.models.fingerprints import weights_fingerprint
from lenscore.models.layers import resolve_layers, with_final
from lenscore.models.loading import vlm_of
from lenscore.models.patched_pass import MOST_BYTES, MOST_STATES
from lenscore.readings.words import FRAGMENT, token_bytes, token_texts
from lenscore.self_test.records import require_self_test
from lenscore.user_files.finding import path_from_stored, stored_path
from lenscore.user_files.notes import Notes
from storage_layouts.counts import counted
from storage_layouts.embeddings import SINK_RATIO, EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.fields import COUNT, SIZE, TEXT, check_fields, list_of
from storage_layouts.files import canonical_json
from storage_layouts.results import (
    IMAGE_SCHEMA,
    STORE_LENSES,
    LensResults,
    write_images,
    write_tokens,
)
from storage_layouts.runs import Receipt, RunFolder, Shard
from storage_layouts.shards import PLAN_REMEDY
from storage_layouts.token_measures import DIMENSIONS
from storage_layouts.tuned_lens import TunedLensFiles, is_package_folder


@dataclass(frozen=True)
class AnalyzeJob(AnalyzeSettings):
    """Run images through a VLM and apply the lenses to every visual token at every layer."""

    def __post_init__(self) -> None:
        """Raises InputError for invalid values, and for lenses without the store that they search."""
        super().__post_init__()
        if self.store is None and self._needs_store:
            raise InputError(
                f"--lenses {self.lenses}: needs contextual embeddings; give --store STORE.zarr (made by extract), "
                "or leave out the lenses that search it"
            )
        if (self.tuned is not None) != self._needs_tuned:
            raise InputError(
                f"--lenses {self.lenses}: "
                + (
                    "needs translators; give --tuned RUN (made by tune), or leave the tuned lens out"
                    if self._needs_tuned
                    else "found --tuned, but no tuned lens; add tuned, or leave --tuned out"
                )
            )
        if self.patchscope_tokens < 0:
            raise InputError(f"--patchscope-tokens: found {self.patchscope_tokens}, expected 0 or more")
        if (self.patchscope_prompt is not None or self.patchscope_tokens) and not self._needs_prompt:
            flag = "--patchscope-tokens" if self.patchscope_prompt is None else PROMPT_FLAG
            raise InputError(f"--lenses {self.lenses}: has no patchscopes; add it, or leave {flag} out")

        if self.explained and not any(map(has_vectors, lenses_named(self.lenses))):
            raise InputError(
                f"--explained: none of the lenses {self.lenses} compares states with vectors; leave it out"
            )

        if self.rogue_dimensions and LatentLens.name not in [lens.name for lens in lenses_named(self.lenses)]:
            raise InputError(f"--rogue-dimensions: are those of the latent lens, which --lenses {self.lenses} lacks")

    def recorded(self) -> dict[str, Any]:
        """The configuration, as in run.json."""
        depth = text_config_of(self._checkpoint.config).num_hidden_layers
        prompt = {"patchscope_prompt": prompt_text(self._patchscope_prompt)} if self._needs_prompt else {}
        return super().recorded() | {"layers": with_final(self.layers, depth), **prompt}

    @property
    def upstream(self) -> tuple[Path, ...]:
        """The store, if a lens searches it, and the Tuned Lens, if it is no folder of the tuned-lens package."""
        store = (self.store,) if self.store is not None and self._needs_store else ()
        return store if self.tuned is None or is_package_folder(self.tuned) else (*store, self.tuned)

    def open_run(self) -> RunFolder:
        """Check everything that can be checked without the weights; create the run folder or resume it."""
        self._checkpoint.require_vision()
        config = self._checkpoint.config
        family_of(config, self.model)
        _ = self._checkpoint.processor  # which workers need; its tokenizer is loaded only once
        tokenizer = self._checkpoint.tokenizer
        resolve_layers(self.layers, text_config_of(config).num_hidden_layers, visual=True)
        require_no_placeholder(self.prompt, config, tokenizer)
        inputs: dict[str, Any] = {
            "images": self._images_identity(),
            "model": model_identity(config, tokenizer),
        }
        if not all(lens.needs_store for lens in lenses_named(self.lenses)):
            tokens = token_candidates(tokenizer, text_config_of(config).vocab_size)
            require_candidates(self.top_k, tokens, f"the vocabulary of {self.model}")
        if self._needs_store:
            store = self._open_store(allow_incomplete=True)
            require_same_text(store, self.model, config, inputs["model"]["tokenizer_hash"])
            require_candidates(self.top_k, store.candidates * len(self._contextual_layers(store)), str(store.path))
            inputs["store"] = {"path": str(store.path), "run_id": store.run.run_id}
            if SINK_RATIO in store.attrs:  # the run id of a store that was made without it may be the same
                inputs["store"][SINK_RATIO] = store.attrs[SINK_RATIO]
        if self.tuned is not None:
            files = TunedLensFiles.open(self.tuned, allow_incomplete=True)
            require_same_width(files, self.model, config)
            inputs["tuned"] = files.identity
        if self._needs_prompt:
            self._prompt_tokens()
        self._require_room()
        settings = self.recorded()
        return RunFolder.create(
            self.out, self.stage, settings, as_recorded(self.out, inputs), command_line(self, settings)
        )

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Write the images with their hashes and the text of each token, unless the run has a plan."""
        if run.plan is not None:
            return
        config = self._checkpoint.config
        text_config = text_config_of(config)
        progress(f"planning: {counted(len(self._images), 'image')}")
        if self._images_identity() != run.inputs["images"]:
            raise InputError(f"--images {self.images}: changed since the command began; choose a new --out")
        notes = self._found[1].lines()
        if unknown := unknown_family(config):
            notes.append(
                f"the patch grid of {unknown!r} models is not known, so their visual tokens have no places: the box of "
                "each is the whole image, its column its number (`lens models` lists the families with places)"
            )
        images = {
            "image_id": list(range(len(self._images))),
            "path": [stored_path(image.path) for image in self._images],
            "sha256": [image.sha256 for image in self._images],
            "bytes": [image.bytes for image in self._images],
            "caption": [image.caption for image in self._images],
        }
        texts = token_texts(self._checkpoint.tokenizer, text_config.vocab_size)
        tokens: dict[str, list[Any]] = {"token_id": list(range(len(texts))), "token": texts}
        lenses = lenses_named(self.lenses)
        facts = {
            "model": run.config["model"],
            "lenses": [lens.name for lens in lenses],
            "layers": list(resolve_layers(self.layers, text_config.num_hidden_layers, visual=True)),
            "depth": text_config.num_hidden_layers,
            "contextual_layers": self._contextual_layers(self._store_of(run, allow_incomplete=True))
            if self._needs_store
            else [],
            "top_k": self.top_k,
            "notes": notes,
        }
        if distributions := [lens.name for lens in lenses if reads_next_token(lens)]:
            facts["distribution_lenses"] = distributions
        if self.patchscope_tokens:
            facts["description_lenses"] = [Patchscopes.name]
        if explained := [lens.name for lens in lenses if self.explained and has_vectors(lens)]:
            facts["explained_lenses"] = explained
        if self.rogue_dimensions:
            facts["measures"] = [DIMENSIONS]
        if self.token_kinds > {"image"}:
            facts |= {"texts": True, "token_bytes": True}
            tokens["bytes"] = [
                token_bytes(self._checkpoint.tokenizer, token) if FRAGMENT in text else None
                for token, text in enumerate(texts)
            ]
        of_rows = [lens.name for lens in lenses if lens.ids == "rows"]
        if not set(of_rows) <= set(STORE_LENSES):
            facts["store_lenses"] = of_rows
        if made_of := getattr(config, "made_of", None):
            facts["made_of"] = made_of
        run.settle()
        files = {
            "images.parquet": write_images(run.path / "images.parquet", pa.table(images, schema=IMAGE_SCHEMA)),
            "tokens.parquet": write_tokens(run.path / "tokens.parquet", pa.table(tokens)),
        }
        run.write_plan(len(self._images), self.images_per_shard, files, facts)

    def open_worker(self, run: RunFolder, device: str, index_memory: int | None = None) -> AnalyzeWorker:
        """Load the model, check that the store was made with its LLM, and load the index onto the device.

        With a model that is spread over several GPUs they share the rows of the index.
        """
        vlm = vlm_of(self._checkpoint.at(commit_of(run)), device)
        if self.self_test:
            require_self_test(vlm)
        facts = _facts(run)
        index = None
        if self._needs_store:
            store = self._store_of(run)
            require_same_weights(store, vlm)
            index = ContextualIndex.from_store(store, facts["contextual_layers"], vlm.devices, index_memory)
        lenses = build_lenses(
            lenses_named(self.lenses), vlm, index, self._tuned_of(run), self.patchscope_prompt, self.patchscope_tokens
        )
        engine = AnalysisEngine(
            vlm,
            lenses,
            facts["layers"],
            self.top_k,
            self.prompt,
            self.batch_size,
            tokens=self.token_kinds,
            max_new_tokens=self.max_new_tokens,
            explained=self.explained,
            dimensions=self.rogue_dimensions,
        )
        return AnalyzeWorker(run, engine, weights_fingerprint(vlm.model))

    def worker_bytes(self, index_memory: int | None = None) -> int | None:
        """See `jobs.base.ModelJob`."""
        text_config = text_config_of(self._checkpoint.config)
        layers = len(resolve_layers(self.layers, text_config.num_hidden_layers, visual=True))
        image, prompt = tokens_of_input(self._checkpoint, self.prompt)
        texts = (prompt if "text" in self.token_kinds else 0) + self._answer
        sequence = image + prompt + self._answer
        tokens = sequence * (1 if self._answer else self.batch_size)
        lines = self.images_per_shard * texts * layers * len(lenses_named(self.lenses))
        more = table_bytes(lines, self.top_k) + (cache_bytes(text_config, sequence) if self._answer else 0)
        if self._needs_prompt:
            ids, _ = self._prompt_tokens()
            more += min(MOST_BYTES, MOST_STATES * 2 * cache_bytes(text_config, len(ids) + self.patchscope_tokens))
            tokens = max(tokens, MOST_STATES)
        states = tokens * layers
        if self._needs_store:
            store = self._open_store(allow_incomplete=True)
            searched = len(self._contextual_layers(store))
            if searched * store.layout.layer_bytes > room_on([torch.device("cpu")], index_memory):  # for many images
                of_shard = self.images_per_shard * (sequence if texts else image) * layers
                states = max(states, min(of_shard, STATES_TOGETHER // (4 * store.dim) + states))
            more += search_memory(store.layout, searched, states, self.top_k, index_memory).private
        return worker_bytes(self._checkpoint, tokens, states + tokens * layers, more)  # states of texts, and gathered

    def extra_work(self) -> dict[str, str]:
        """See `jobs.base.CostlyJob`."""
        if not self._needs_prompt:
            return {}
        ids, place = self._prompt_tokens()
        depth = text_config_of(self._checkpoint.config).num_hidden_layers
        layers = resolve_layers(self.layers, depth, visual=True)
        blocks = sum(depth - layer for layer in layers) * (len(ids) - place)
        if self.patchscope_tokens:  # the same again in all blocks, and each further token
            blocks += len(layers) * depth * (len(ids) - place + self.patchscope_tokens - 1)
        return {
            Patchscopes.name: f"each token runs {blocks:,} times through a block, behind a prompt of {len(ids):,} "
            f"tokens, as in {blocks / depth:.1f} more forward passes of the language model; counted in the time"
        }

    def input_paths(self) -> Sequence[Path] | None:
        """Those of the settings, and the images, which a list or table may name."""
        paths = super().input_paths()
        return paths and [*paths, *{file_of(image.path) for image in self._images}]

    @property
    def _answer(self) -> int:
        """Tokens of an answer at most."""
        return self.max_new_tokens if "generated" in self.token_kinds else 0

    def _require_room(self) -> None:
        """Raises InputError if the first image is too long for the model, as workers do for each."""
        processor, image = self._checkpoint.processor, self._images[0]
        try:
            inputs = processed(processor, prompt_with_image(processor, self.prompt), [open_image(image)])
        except Exception:  # whatever a processor raises; the worker says what is wrong with the image
            return
        text_config = text_config_of(self._checkpoint.config)
        require_room_for_image(inputs["input_ids"].shape[1], self._answer, text_config, str(image.path))

    @cached_property
    def _found(self) -> tuple[list[ImageFile], Notes]:
        """The images, and notes on those that were left out."""
        notes = Notes()
        return find_images(self.images, self.caption_column, self.path_column, notes=notes), notes

    @property
    def _images(self) -> list[ImageFile]:
        return self._found[0]

    @property
    def _needs_store(self) -> bool:
        return any(lens.needs_store for lens in lenses_named(self.lenses))

    @property
    def _needs_tuned(self) -> bool:
        return any(needs_translators(lens) for lens in lenses_named(self.lenses))

    @property
    def _needs_prompt(self) -> bool:
        return any(needs_prompt(lens) for lens in lenses_named(self.lenses))

    @property
    def _patchscope_prompt(self) -> str:
        return USUAL_PROMPT if self.patchscope_prompt is None else self.patchscope_prompt

    def _prompt_tokens(self) -> tuple[list[int], int]:
        checkpoint = self._checkpoint
        return tokens_of_prompt(
            self._patchscope_prompt, checkpoint.tokenizer, checkpoint.config, self.patchscope_tokens
        )

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.model, self.revision, self.trust_remote_code, self.dtype, self.quantization)

    def _open_store(self, allow_incomplete: bool = False) -> EmbeddingStore:
        assert self.store is not None  # __post_init__
        layers = asked_layers(self.contextual_layers, self._checkpoint.config)  # of a download there may be no others
        return EmbeddingStore.open(self.store.resolve(), allow_incomplete, layers)

    def _store_of(self, run: RunFolder, allow_incomplete: bool = False) -> EmbeddingStore:
        """The store with which the run began. InputError if it was replaced by another one."""
        store, expected = self._open_store(allow_incomplete), run.inputs["store"]["run_id"]
        if store.run.run_id != expected:
            raise InputError(
                f"--store {store.path}: found the store of run {store.run.run_id}, but {run.path} began with "
                f"{expected}; put that store back, or choose a new --out"
            )
        return store

    def _tuned_of(self, run: RunFolder) -> TunedLensFiles | None:
        """The Tuned Lens with which the run began. InputError if it was replaced by another one."""
        if self.tuned is None:
            return None
        files, expected = TunedLensFiles.open(self.tuned), run.inputs["tuned"]
        if files.identity != expected:
            raise InputError(
                f"--tuned {files.path}: found {files.identity['id']}, but {run.path} began with {expected['id']} of "
                f"{expected['path']}; put that back, or choose a new --out"
            )
        return files

    def _images_identity(self) -> dict[str, Any]:
        found = [(stored_path(image.path), image.sha256, image.caption) for image in self._images]
        return {"count": len(found), "sha256": hashlib.sha256(canonical_json({"images": found})).hexdigest()}

    def _contextual_layers(self, store: EmbeddingStore) -> list[int]:
        return layers_to_search(store, self.contextual_layers, self._checkpoint.config)


def _facts(run: RunFolder) -> dict[str, Any]:
    """The facts of the plan. CorruptError if a field that the work needs is missing or of another kind."""
    facts = run.require_plan().facts
    kinds = {"lenses": list_of(TEXT), "layers": list_of(COUNT), "contextual_layers": list_of(COUNT), "top_k": SIZE}
    check_fields(run.path / "plan.json", facts, kinds, PLAN_REMEDY, "facts")
    return facts


class AnalyzeWorker:
    """Writes the Parquet parts of shards of images, with one model and its lenses on one device."""

    def __init__(self, run: RunFolder, engine: AnalysisEngine, weights_hash: str) -> None:
        self._model_file = record_or_check_weights(run, weights_hash)
        self._run = run
        self._engine = engine
        table = LensResults.open(run.path, allow_incomplete=True).images()
        limit = run.config.get("max_pixels", MAX_PIXELS)
        self._images = [
            ImageFile(path_from_stored(line["path"]), line["sha256"], line["bytes"], line["caption"], limit)
            for line in table.to_pylist()
        ]

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Analyse the shard's images and write their results, geometry, norms and cosines.

        The receipt's facts list the unreadable images with the reason. Raises InputError if an image has changed since
        the planning.
        """
        facts = _facts(self._run)
        ids = range(shard.first, shard.stop)
        unreadable: dict[int, str] = {}
        done = 0
        with shard_tables(self._run.path, shard, facts) as files, ThreadPoolExecutor(1) as thread:
            writing: Future[None] | None = None
            for found in self._engine.analyze([(i, self._images[i]) for i in ids]):
                if writing is not None:
                    writing.result()
                writing = thread.submit(files.add, found)  # while the device computes the next batch
                unreadable |= found.unreadable
                done += len(found.image_ids) + len(found.unreadable)
                progress(done)
            if writing is not None:
                writing.result()
        listed = [
            {"image_id": i, "path": str(self._images[i].path), "reason": unreadable[i]} for i in sorted(unreadable)
        ]
        return Receipt(shard.index, shard.items, self._model_file | files.files, {"unreadable": listed})
