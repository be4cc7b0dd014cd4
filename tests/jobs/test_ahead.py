"""Preparing ahead: whatever was expected, what is taken is right."""

from __future__ import annotations

import threading

import pytest

from jobs.prefetching import Prefetcher
from storage_layouts.runs import Plan

PLAN = Plan(10, 1)


def test_right_and_wrong_guesses_give_the_same():
    threads = set()

    def prepare(shard):
        threads.add(threading.current_thread())
        if shard.index == 7:
            raise ValueError("seven")
        return shard.index

    ahead = Prefetcher(prepare)
    for taken, expected in [(0, 1), (1, 7), (2, None), (3, 9), (9, 3), (3, 7)]:
        assert ahead.take(PLAN.shard(taken)) == taken
        ahead.expect(None if expected is None else PLAN.shard(expected))
    with pytest.raises(ValueError, match="seven"):
        ahead.take(PLAN.shard(7))
    assert ahead.take(PLAN.shard(8)) == 8
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_the_expected_is_ready_before_it_is_asked_for():
    done = threading.Event()
    ahead = Prefetcher(lambda shard: done.set())
    ahead.expect(PLAN.shard(0))
    assert done.wait(30)
