"""One worker of a planning that several share: samples pieces of the corpus, merges samples, collects sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.base import Progress, no_progress
from jobs.planned_contexts import contexts_of, contexts_table, planned_contexts, require_unchanged
from jobs.planning_tree import FAN_IN, PlanningTree
from lenscore.contexts.context_table import SampledContexts, describe, require_contexts, row_table, sample_contexts
from lenscore.contexts.corpus import FileCounts, corpus_changed, no_sentence
from lenscore.contexts.corpus_file import CorpusFile
from lenscore.contexts.corpus_pieces import Piece, read_piece
from lenscore.contexts.row_choice import excluded_tokens
from lenscore.contexts.sampling import Contexts, ContextSampler
from lenscore.user_files.notes import Notes
from storage_layouts.files import FileDigest
from storage_layouts.planning_tables import read_planning_table, write_planning_table
from storage_layouts.runs import Receipt, RunFolder, Shard

if TYPE_CHECKING:
    from jobs.extract_job import ExtractJob

DESCRIBED_AT_ONCE = 8
"""With up to this many pieces most sentences are kept, so their characters are found when they are first tokenised."""


class PlanningWorker:
    """Computes shards of a `PlanningTree` for an extract run.

    Memory: that of `PlanningJob.worker_bytes`, whatever the length of the corpus.
    """

    def __init__(self, run: RunFolder, job: ExtractJob, files: Sequence[CorpusFile], pieces: Sequence[Piece]) -> None:
        self._run, self._job, self._files, self._pieces = run, job, files, pieces
        self._tree = PlanningTree(len(pieces))
        self._tokenizer = job.tokenizer
        self._choice = job.row_choice()

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Compute one shard."""
        kind, place = self._tree.place(shard.index)
        say = partial(progress, 0)
        if kind == "texts":
            return Receipt(shard.index, shard.items, self._collect(shard.index, place), {})
        if kind == "tables":
            planned = planned_contexts(self._run, self._tree, self._files)
            notes = Notes()
            store = RunFolder.open(self._job.out)
            self._job.corpus_files(store, notes)
            notes.include(planned.notes)
            table = row_table(self._tokenizer, planned.sampled, planned.texts)
            self._job.write_plan(store, self._files, table, notes)
            return Receipt(shard.index, shard.items, {}, {})
        if kind == "piece":
            sampled, facts = self._sample(place, say)
        else:
            sampled, facts = self._merge(shard.index)
        if shard.index == self._tree.root:
            if not sampled.numbered:
                raise no_sentence(self._files, self._job.text_choice())
            require_contexts(sampled)
        counts = {name: value for name, value in vars(sampled).items() if name != "kept"}
        files = write_planning_table(self._run, "contexts", shard.index, contexts_table(sampled.kept))
        return Receipt(shard.index, shard.items, files, counts | facts)

    def _sample(self, place: int, say: Callable[[str], None]) -> tuple[SampledContexts, dict[str, Any]]:
        counts: dict[int, FileCounts] = {}
        spans_until = 2**62 if len(self._pieces) <= DESCRIBED_AT_ONCE else 0
        texts = self._read(place, counts)
        sampled = sample_contexts(texts, self._tokenizer, self._choice, say, spans_until)
        read = [[one.file, *self._files[one.file].state()] for one in self._pieces[place]]
        return sampled, {"counts": [[file, asdict(of)] for file, of in counts.items()], "read": read}

    def _merge(self, shard: int) -> tuple[SampledContexts, dict[str, Any]]:
        sampler = ContextSampler(
            self._choice.per_token, len(excluded_tokens(self._tokenizer, self._choice)), self._choice.sampling
        )
        sums = dict.fromkeys(("numbered", "sentences_read", "contexts_seen", "sentences_cut"), 0)
        numbered: list[int] = []
        for receipt in map(self._receipt, self._tree.inputs(shard)):
            numbered.append(receipt.facts["numbered"])
            found = contexts_of(read_planning_table(self._run, "contexts", receipt))
            sampler.add(replace(found, sentence=found.sentence + sums["numbered"]))
            sums = {name: total + receipt.facts[name] for name, total in sums.items()}
        return SampledContexts(sampler.kept(), **sums), {"inputs": numbered}

    def _collect(self, shard: int, place: int) -> dict[str, FileDigest]:
        piece = self._receipt(place).facts
        require_unchanged(self._run, self._files, [piece])
        first = self._first_sentence(place)
        stop = first + piece["numbered"]
        rows = slice(*np.searchsorted(self._kept.sentence, [first, stop]))
        kept = Contexts(*(part[rows] for part in vars(self._kept).values()))
        texts: list[str] = []
        if len(kept):
            own = replace(kept, sentence=kept.sentence - first)
            texts, kept = describe(self._read(place, {}), self._tokenizer, self._choice, own)
        spans = pa.table({"char_start": kept.span[:, 0], "char_end": kept.span[:, 1]})
        found = pa.table({"text": pa.array(texts, pa.string())})
        return {
            **write_planning_table(self._run, "spans", shard, spans),
            **write_planning_table(self._run, "texts", shard, found),
        }

    @cached_property
    def _kept(self) -> Contexts:
        return contexts_of(read_planning_table(self._run, "contexts", self._receipt(self._tree.root)))

    def _first_sentence(self, piece: int) -> int:
        """Number of the first sentence of a piece among those of all: the merges know how many are before it."""
        first, place = 0, piece
        for level in self._tree.merges:
            merge, place_in_merge = divmod(place, FAN_IN)
            first += sum(self._receipt(level[merge]).facts["inputs"][:place_in_merge])
            place = merge
        return first

    def _read(self, place: int, counts: dict[int, FileCounts]) -> Iterator[str]:
        """The sentences of a piece. Raises InputError if one of its files changes meanwhile."""
        before = [self._files[one.file].state() for one in self._pieces[place]]
        yield from read_piece(self._pieces[place], self._files, self._job.text_choice(), counts)
        if before != [self._files[one.file].state() for one in self._pieces[place]]:
            raise corpus_changed()

    def _receipt(self, shard: int) -> Receipt:
        receipt = self._run.read_receipt(shard)
        assert receipt is not None, f"shard {shard} is not done"
        return receipt
