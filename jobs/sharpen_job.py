"""The sharpen stage: words that LatentLens found at patches of an analyze run, in new sentences, searched again.

A shard is one search: first the store alone, then the sentences of one source, kind and round, which go on from what
earlier ones found. An item of the plan is one patch in one search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from jobs.analyzed_results import results_begun_with
from jobs.base import begun_run, command_line
from jobs.sharpen_settings import SharpenSettings
from jobs.sharpen_steps import planned_searches, sample_of, write_sample
from jobs.sharpen_worker import SharpenWorker
from jobs.worker_memory import tokens_of_input, worker_bytes
from lenscore.analysis.lens_choice import LensChoice, choose_lenses
from lenscore.analysis.store_compatibility import require_same_weights
from lenscore.contexts.corpus import TextChoice, corpus_changed, corpus_files, corpus_identity, read_corpus
from lenscore.contexts.corpus_file import CorpusFile
from lenscore.contexts.named_corpora import recorded_commits
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.row_words import RowWords
from lenscore.index.search_memory import search_memory
from lenscore.judging.patches import ImagePatches, readable_images, sample_patches, whole_patches
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.loading import Vlm, vlm_of
from lenscore.sharpening.generated_sentences import GeneratedSource
from lenscore.sharpening.growing_search import BATCH_TOKENS, SearchStep, StoreExtension, search_store
from lenscore.sharpening.inverted_index import InvertedIndex
from lenscore.sharpening.new_sentences import (
    USUAL_TEMPLATES,
    CorpusSource,
    SentenceSource,
    TemplateSource,
    checked_templates,
)
from lenscore.sharpening.run_states import states_of_patches
from lenscore.sharpening.search_names import CORPUS, GENERATED, TEMPLATES
from lenscore.sharpening.sharpening_rounds import SharpeningRounds, searches_of
from lenscore.sharpening.true_attributes import AttributeTruth, attribute_truth
from lenscore.single_image.analysis import known_of
from lenscore.user_files.finding import sha256_of
from lenscore.user_files.notes import Notes
from lenscore.user_files.text_lines import Lines, single_lines
from lenscore.word_maps.word_truth import SHAPES
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder, Shard

T = TypeVar("T")

ROWS_OF_A_SENTENCE = 16
"""For the memory of a worker: rows of a new sentence, about."""

INDEX_SHARE = 3
"""Bytes of an `InvertedIndex` for each byte of its corpus: 2.8 were measured of concepts.txt. A compressed corpus takes
more.
"""


@dataclass(frozen=True)
class SharpenJob(SharpenSettings):
    """Put words that LatentLens found at patches into new sentences, and search these too, for some rounds."""

    @property
    def upstream(self) -> tuple[Path, ...]:
        """The analyze run."""
        return (self.results,)

    def open_run(self) -> RunFolder:
        """Check the settings against the results and the store; create the run folder or resume it."""
        results = self._results
        _ = results.prompt  # raises InputError for results that cannot run again
        _, store = self._templates, self._store
        _ = self._choice
        path = str(self.results.resolve())
        config = self.recorded()
        inputs: dict[str, Any] = {
            "results": {"path": path, "run_id": results.run.run_id},
            "store": {"path": str(store.path.resolve()), "run_id": store.run.run_id},
            "model": results.run.inputs.get("model"),
        }
        if self.needs_corpus:
            inputs["corpus"] = corpus_identity(self._corpus_files(begun_run(self.out)))
        files = {"templates": self.templates, "truth": None if self.truth in ("", SHAPES) else Path(self.truth)}
        inputs |= {name: {"sha256": sha256_of(file)} for name, file in files.items() if file is not None}
        return RunFolder.create(self.out, self.stage, config, inputs, command_line(self, config))

    def plan(self, run: RunFolder, progress: Callable[[str], None]) -> None:
        """Choose the patches, and read the corpus for what is left out of it, unless the run has a plan."""
        if run.plan is not None:
            return
        results = results_begun_with(self.results, run)
        progress("choosing patches")
        images = readable_images(results.images(), results.geometry())
        truth = self.attribute_truth(images)
        patches = sample_patches(images, self.patches, self.seed, truth.qualifying if truth else whole_patches)
        if not patches:
            what = "patch that an object of the truth covers" if truth else "whole patch"
            raise InputError(f"{self.results}: has no {what}")
        notes = Notes()
        if self.needs_corpus:
            progress("reading the corpus")
            self._of_corpus(run, partial(deque, maxlen=0), notes)
        sources, controls = self.asked
        searches = searches_of(sources, controls, self.rounds)
        facts = {
            "searches": list(map(list, searches)),
            "contextual_layers": sorted(self._choice.contextual_layers),
            "top_k": results.top_k,
            "notes": [*self._without_effect(), *notes.lines()],
        }
        run.settle()
        run.write_plan(len(searches) * len(patches), len(patches), write_sample(run, patches), facts)

    def open_worker(self, run: RunFolder, device: str, index_memory: int | None = None) -> SharpenWorker:
        """Load the model and the corpus; check that model and store are those that the run began with."""
        results, store = results_begun_with(self.results, run), self._store
        if store.run.run_id != run.inputs["store"]["run_id"]:
            raise InputError(
                f"{store.path}: found the store of run {store.run.run_id}, but {run.path} began with "
                f"{run.inputs['store']['run_id']}; put that store back, or choose a new --out"
            )
        vlm = vlm_of(self._checkpoint, device)
        require_same_weights(store, vlm)
        layers = run.require_plan().facts["contextual_layers"]
        extension = StoreExtension(store, layers, vlm)
        patches = sample_of(run)

        def searched(progress: Callable[[str], None]) -> tuple[Tensor, SearchStep]:
            images = readable_images(results.images(), results.geometry(), with_places=False)
            states = states_of_patches(results, vlm, patches, {image.image_id: image for image in images}, progress)
            progress("searching the store")
            index = ContextualIndex.from_store(store, layers, vlm.devices, index_memory)
            return states, search_store(extension, index, states.flatten(0, 1), results.top_k)

        def rounds(states: Tensor) -> SharpeningRounds:
            corpus = self._of_corpus(run, lambda texts: InvertedIndex(texts, self.seed)) if self.needs_corpus else None
            queries, sources = states.to(vlm.device).flatten(0, 1), self._sentence_sources(vlm, corpus)
            words = RowWords.of_store(store)
            return SharpeningRounds(extension, words, queries, patches, sources, corpus, self.sentences, self.seed)

        return SharpenWorker(run, searched, rounds)

    def ready(self, run: RunFolder) -> Callable[[Shard, set[int]], bool]:
        """See `jobs.base.TreeJob`."""
        searches = planned_searches(run)
        at = {search: shard for shard, search in enumerate(searches)}
        needs = [{at[one] for one in search.needs} for search in searches]
        return lambda shard, done: needs[shard.index] <= done

    def worker_bytes(self, index_memory: int | None = None) -> int | None:
        """See `jobs.base.ModelJob`."""
        layers, searched = len(self._results.layers), len(self._choice.contextual_layers)
        tokens = max(sum(tokens_of_input(self._checkpoint, self._results.prompt)), BATCH_TOKENS)
        rows = self.patches * self.sentences * ROWS_OF_A_SENTENCE
        states, k = self.patches * layers, self._results.top_k
        search = search_memory(self._store.layout, searched, states, k, index_memory).private
        files = self._corpus_files(begun_run(self.out)) if self.needs_corpus else []
        index = INDEX_SHARE * sum(size for size, _ in map(CorpusFile.state, files))
        return worker_bytes(self._checkpoint, tokens, states + rows * searched, search + index)

    def attribute_truth(self, images: Sequence[ImagePatches]) -> AttributeTruth | None:
        """What is known of the patches of the images; None without --truth."""
        return attribute_truth(self.truth, images, self.cover) if self.truth else None

    @cached_property
    def _results(self) -> LensResults:
        return LensResults.open(self.results, allow_incomplete=True)

    @cached_property
    def _store(self) -> EmbeddingStore:
        """The store to begin with."""
        if self.store is not None:
            return EmbeddingStore.open(self.store)
        store = self._results.store() if self._results.needs_store else None
        if store is None:
            raise InputError(f"--results {self.results}: has no LatentLens, so it has no store; expected --store")
        return store

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint.of_run(self._results.run, self.trust_remote_code)

    @cached_property
    def _choice(self) -> LensChoice:
        """LatentLens on the layers of the store that the results searched, or all of another store."""
        layers = self._results.run.require_plan().facts.get("contextual_layers") if self.store is None else None
        return choose_lenses("latent", self._store, layers or "all", self._results.top_k, known_of(self._checkpoint))

    def _without_effect(self) -> Iterator[str]:
        """The flags that say something about sentences that are not asked for, with the reason."""
        if (self.corpus or self.column is not None) and not self.needs_corpus:
            flag = "--corpus" if self.corpus else "--column"
            yield f"{flag} had no effect: no source and no control takes sentences of a corpus"
        if self.templates is not None and set(self.asked[0]) <= {CORPUS}:
            yield "--templates had no effect: no source takes templates"

    @cached_property
    def _templates(self) -> TemplateSource:
        """The templates of the file, or the usual ones."""
        if self.templates is None:
            return TemplateSource(USUAL_TEMPLATES)
        lines = (line.strip() for line in single_lines(Lines(self.templates, "strict")))
        return TemplateSource(checked_templates([line for line in lines if line]))

    def _sentence_sources(self, vlm: Vlm, corpus: InvertedIndex | None) -> Mapping[str, SentenceSource]:
        generated = GeneratedSource(vlm, self._templates, self.max_new_tokens)
        of_model: dict[str, SentenceSource] = {TEMPLATES: self._templates, GENERATED: generated}
        return of_model if corpus is None else {**of_model, CORPUS: CorpusSource(corpus)}

    def _corpus_files(self, run: RunFolder | None, notes: Notes | None = None) -> list[CorpusFile]:
        """The files of the corpus, of datasets those at the commits of the run; `notes` counts what is not read."""
        return corpus_files(self.corpus, notes, recorded_commits(run))

    def _of_corpus(self, run: RunFolder, made_of: Callable[[Iterator[str]], T], notes: Notes | None = None) -> T:
        """What is made of the sentences of the corpus; InputError if it is not the one that the run began with."""
        notes = notes or Notes()
        files = self._corpus_files(run, notes)
        written = [file.state() for file in files]
        with closing(read_corpus(files, TextChoice(self.column, seed=self.seed), notes)) as texts:
            made = made_of(texts)
        if written != [file.state() for file in files] or corpus_identity(files) != run.inputs["corpus"]:
            raise corpus_changed()
        return made
