"""The training of all three stages: Muon for the matrices inside layers, AdamW for the rest, one cosine schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lenscore.shapes.muon import Muon

_WARM_UP_STEPS = 20
_LAST_SHARE = 0.05  # the rate ends at this share of its peak


@dataclass(frozen=True)
class Rates:
    """Peak learning rates, and the weight decay of both optimisers."""

    muon: float
    adamw: float
    weight_decay: float


class Trainer:
    """Muon for the matrices inside layers; AdamW for embeddings, heads and vectors.

    ``losses`` has the loss of every step. Mean loss and time are printed ten times in a stage.
    """

    def __init__(self, stage: str, modules: Iterable[nn.Module], rates: Rates, steps: int) -> None:
        parameters = [named for module in modules for named in module.named_parameters() if named[1].requires_grad]
        matrices = [parameter for name, parameter in parameters if _is_inner_matrix(name, parameter)]
        others = [parameter for name, parameter in parameters if not _is_inner_matrix(name, parameter)]
        self._parameters = matrices + others
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rates.adamw, betas=(0.9, 0.98), weight_decay=rates.weight_decay)
        ]
        if matrices:
            self._optimisers.append(Muon(matrices, rates.muon, rates.weight_decay))
        self._schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share_of_peak(step, steps))
            for optimiser in self._optimisers
        ]
        self.losses: list[float] = []
        self._stage, self._steps, self._start = stage, steps, time.monotonic()

    def step(self, loss: torch.Tensor) -> None:
        """One update along the gradient of a scalar loss; the norm of the gradient is clipped at 1."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
        self.losses.append(loss.item())
        every = max(1, self._steps // 10)
        if len(self.losses) % every == 0:
            mean, seconds = sum(self.losses[-every:]) / every, time.monotonic() - self._start
            print(f"{self._stage}: step {len(self.losses)}/{self._steps}, loss {mean:.3f}, {seconds:.0f} s", flush=True)


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "embed" not in name and "head" not in name


def _share_of_peak(step: int, steps: int) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (_LAST_SHARE + (1 - _LAST_SHARE) * cosine)
