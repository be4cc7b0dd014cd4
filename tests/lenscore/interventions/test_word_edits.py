"""Moving states along the direction of a word."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lenscore.interventions.word_directions import Direction, random_direction
from lenscore.interventions.word_edits import moved_states, steps_to_goal

DIM = 48


@pytest.fixture
def direction() -> Direction:
    return Direction(random_direction("a word", DIM), 0.4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dose_0_changes_no_bit_and_dose_1_reaches_the_goal(direction: Direction, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states = (100 * torch.randn(7, DIM)).to(dtype)
    states[0, :3] = torch.tensor([-0.0, 0.0, 1e-30])
    kinds = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    rounding = 4 * torch.finfo(dtype).eps
    for edit, share in (("erase", 0.0), ("write", 0.4)):
        steps = steps_to_goal(edit, states, direction)
        same = moved_states(states, 0.0 * steps, direction.unit)
        assert torch.equal(same.view(kinds[dtype]), states.view(kinds[dtype]))
        moved = moved_states(states, 1.0 * steps, direction.unit)
        assert moved.dtype == dtype
        lengths = states.double().norm(dim=1)
        shares = moved.double() @ direction.unit / lengths
        assert (shares - share).abs().max() < rounding
        across = moved.double() - states.double()
        across -= (across @ direction.unit)[:, None] * direction.unit
        assert (across.norm(dim=1) / lengths).max() < rounding  # nothing else changes
        half = moved_states(states, 0.5 * steps, direction.unit).double() @ direction.unit / lengths
        assert (half - (shares + states.double() @ direction.unit / lengths) / 2).abs().max() < rounding


def test_random_directions_are_unit_vectors_in_all_directions() -> None:
    found = torch.stack([random_direction(f"{i}", DIM) for i in range(2000)]).numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_allclose(found.T @ found / len(found), np.eye(DIM) / DIM, atol=6 / DIM / np.sqrt(len(found)) * 2)
    assert np.array_equal(random_direction("1", DIM), found[1])
