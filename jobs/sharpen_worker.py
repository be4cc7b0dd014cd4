"""The worker of the sharpen stage: a shard is one search, of the store or of new sentences of one kind and round."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import safetensors.torch
from torch import Tensor

from jobs.base import Progress, no_progress
from jobs.sharpen_steps import planned_searches, read_step, write_step
from lenscore.sharpening.growing_search import SearchStep
from lenscore.sharpening.sharpening_rounds import STORE_ALONE, Search, SharpeningRounds
from storage_layouts.files import write_atomic
from storage_layouts.runs import Receipt, RunFolder, Shard
from storage_layouts.sharpening_steps import STATES, read_file


class SharpenWorker:
    """Writes what searches found, with one model on one device.

    Args:
        run: the run, planned.
        search_store: returns the states [layers, patches, dim] of the patches, and what they find in the store.
        rounds: the searches behind it, for these states.

    """

    def __init__(
        self,
        run: RunFolder,
        search_store: Callable[[Callable[[str], None]], tuple[Tensor, SearchStep]],
        rounds: Callable[[Tensor], SharpeningRounds],
    ) -> None:
        self._run, self._search_store, self._rounds_of = run, search_store, rounds
        self._searches = planned_searches(run)
        self._at = {search: shard for shard, search in enumerate(self._searches)}
        self._steps: dict[Search, SearchStep] = {}
        self._rounds: SharpeningRounds | None = None

    def run(self, shard: Shard, progress: Progress = no_progress) -> Receipt:
        """Search, and write what was found. InputError for an image that has changed."""
        search, files = self._searches[shard.index], {}
        if search == STORE_ALONE:
            states, step = self._search_store(partial(progress, 0))
            self._rounds = self._rounds_of(states)
            data = safetensors.torch.save({"states": states.cpu().contiguous()})
            files[STATES] = write_atomic(self._run.path / STATES, data)
        else:
            progress(0, f"{search.source}, round {search.round}: {search.kind}")
            if self._rounds is None:
                data = read_file(self._run, self._at[STORE_ALONE], STATES)
                self._rounds = self._rounds_of(safetensors.torch.load(data)["states"])
            step = self._rounds.search(search, self._step_of)
        self._steps[search] = step
        return Receipt(shard.index, shard.items, files | write_step(self._run, shard.index, step))

    def _step_of(self, search: Search) -> SearchStep:
        if search not in self._steps:
            self._steps[search] = read_step(self._run, self._at[search])
        return self._steps[search]
