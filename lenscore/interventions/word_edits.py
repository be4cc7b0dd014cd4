"""Erasing a word from states of visual tokens, or writing it into them, by a dose.

A state moves along the direction u of the word until its projection h . u is the goal: 0 if the word is erased; if it
is written, what a vector of the word as long as the state has. A dose is the share of that way:

    h' = h + dose * (goal - h . u) * u

Controls move as many states by other directions as far, or other states by this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lenscore.interventions.names import WRITE
from lenscore.interventions.substitutes import Ints
from lenscore.interventions.substitution import Substitution, Target
from lenscore.interventions.word_directions import Direction, WordDirections, random_direction
from lenscore.lenses.references import hashed_numbers


@dataclass(frozen=True)
class AskedEdit:
    """A word to erase or write at some visual tokens.

    `number` and `other` are the numbers of the word and of another one in `WordDirections`; `first_tokens` are those
    with which the word begins in an answer.
    """

    kind: str
    word: str
    number: int
    other: int
    first_tokens: tuple[int, ...]
    tokens: Ints


class WordEdit(NamedTuple):
    """One changed pass: what moved the states, how far, and the changed states."""

    asked: AskedEdit
    direction: str
    dose: float
    substitution: Substitution


def edits_of(
    asked: AskedEdit, lens: str, directions: WordDirections, doses: Sequence[float], states: Tensor, name: str
) -> Iterator[WordEdit]:
    """All changed passes of one word: each dose along its direction, and each but 0 along those of the controls.

    Args:
        asked: the word and where.
        lens: name of the lens.
        directions: of this lens.
        doses: shares of the way.
        states: of all visual tokens of the image at the layer [n, dim].
        name: of seed, image and layer in the hashes of controls.

    """
    name = f"{name}/{asked.kind}/{asked.word}"
    here, elsewhere = asked.tokens, _others(asked.tokens, len(states), name)
    word = directions.of(asked.number, states[torch.from_numpy(here)])
    other = directions.of(asked.other, states[torch.from_numpy(here)])
    moved = [("word", here, word.unit), ("other-word", here, other.unit)]
    moved.append(("random", here, random_direction(f"{name}/random", states.shape[1]).to(word.unit.device)))
    if len(elsewhere):
        moved.append(("other-patches", elsewhere, word.unit))
    for direction, tokens, unit in moved:
        some = states[torch.from_numpy(tokens)]
        steps = steps_to_goal(asked.kind, some, word)
        for dose in doses:
            if dose or direction == "word":
                changed = moved_states(some, dose * steps, unit)
                target = Target("object", asked.number, tokens)
                yield WordEdit(
                    asked, direction, dose, Substitution(target, lens, direction, changed, asked.first_tokens)
                )


def steps_to_goal(kind: str, states: Tensor, direction: Direction) -> Tensor:
    """How far along a direction the goal is from each of states [m, dim]: float64 [m]."""
    exact = states.to(direction.unit)
    goals = exact.norm(dim=1) * direction.share if kind == WRITE else torch.zeros_like(exact[:, 0])
    return goals - exact @ direction.unit


def moved_states(states: Tensor, steps: Tensor, unit: Tensor) -> Tensor:
    """States [m, dim] after steps [m] along a unit vector, in their dtype; a step of 0 changes no bit."""
    moved = (states.to(unit) + steps[:, None] * unit).to(states.device, states.dtype)
    return torch.where((steps == 0)[:, None].to(states.device), states, moved)


def _others(tokens: Ints, count: int, name: str) -> Ints:
    """As many other visual tokens, chosen by a hash, or all of them if there are fewer."""
    outside = np.setdiff1d(np.arange(count), tokens)
    order = np.argsort(hashed_numbers(f"{name}/other-patches", len(outside)), kind="stable")
    return np.sort(outside[order[: len(tokens)]])
