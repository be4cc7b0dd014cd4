"""Top-k against plain sorting in Python, with many ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenscore.index.topk import NO_CONTEXTUAL_LAYER, merge, require_finite, top_of_block

FEW_VALUES = [-2.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0**-100, float("-inf")]


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.sampled_from(FEW_VALUES), min_size=1, max_size=30),
    k=st.integers(1, 8),
    block=st.integers(1, 13),
)
def test_blocks_merge_to_the_sorted_order(scores: list[float], k: int, block: int) -> None:
    firsts = range(0, len(scores), block)
    together = merge([top_of_block(torch.tensor([scores[first : first + block]]), k, first) for first in firsts], k)
    found = zip(together.scores[0].tolist(), together.ids[0].tolist(), strict=True)
    assert list(found) == sorted(zip(scores, range(len(scores)), strict=True), key=lambda pair: (-pair[0], pair[1]))[:k]
    assert (together.contextual_layers == NO_CONTEXTUAL_LAYER).all()


def test_many_equal_scores_keep_the_smallest_ids() -> None:
    scores = torch.zeros(3, 5000)
    scores[1, 4000] = 1.0
    scores[2, 10:] = -1.0
    top = top_of_block(scores, 4)
    assert top.ids.tolist() == [[0, 1, 2, 3], [4000, 0, 1, 2], [0, 1, 2, 3]]
    assert top.scores[1].tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("place", [0, 7, 15])
def test_nan_is_loud_wherever_it_stands(place: int) -> None:
    scores = torch.randn(2, 16)
    scores[1, place] = float("nan")
    parts = [top_of_block(scores[:, :8], 3), top_of_block(scores[:, 8:], 3, 8)]
    with pytest.raises(ValueError, match=r"the lens: query 1 .*nan"):
        require_finite(merge(parts, 3), "the lens")


def test_half_precision_scores_are_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        top_of_block(torch.randn(2, 16).bfloat16(), 3)
