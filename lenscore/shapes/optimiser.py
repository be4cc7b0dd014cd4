"""How all three stages train: Muon for the matrices between layers, AdamW for the rest, one cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lenscore.shapes.muon import Muon

_WARM_UP_STEPS = 20
_LAST_SHARE = 0.05  # the rate ends at this share of its peak


@dataclass(frozen=True)
class Rates:
    """Peak learning rates, and the weight decay of both parts."""

    muon: float
    adamw: float
    weight_decay: float


class MuonWithAdamW:
    """Muon for the matrices inside layers; AdamW for embeddings, heads and vectors."""

    def __init__(self, modules: Iterable[nn.Module], rates: Rates, steps: int) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for module in modules:
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    (matrices if _is_inner_matrix(name, parameter) else others).append(parameter)
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

    def step(self, loss: torch.Tensor) -> None:
        """One update down the gradient of a scalar loss, with the gradient's norm clipped at 1."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "embed" not in name and "head" not in name


def _share_of_peak(step: int, steps: int) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (_LAST_SHARE + (1 - _LAST_SHARE) * cosine)
