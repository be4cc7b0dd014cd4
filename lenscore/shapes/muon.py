"""Muon: momentum whose direction, for a matrix, is replaced by the nearest orthogonal matrix.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024),
https://kellerjordan.github.io/posts/muon/. Implemented here because ``torch.optim.Muon`` needs torch 2.9 and computes
in bfloat16, which is slow on CPUs without support for it. Matrices of one shape are updated together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

_MOMENTUM = 0.95
_NEWTON_SCHULZ_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that pushes singular values towards 1


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum, for float32 matrices only.

    The update has the usual root mean square of AdamW's (0.2 for rate 1), so learning rates of both are comparable.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            same_shape = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    same_shape[matrix.shape].append(matrix)
            for matrices in same_shape.values():
                directions = orthogonalise(torch.stack([self._momentum(matrix) for matrix in matrices]))
                size = 0.2 * max(matrices[0].shape) ** 0.5
                for matrix, direction in zip(matrices, directions, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(direction, alpha=-group["lr"] * size)

    def _momentum(self, matrix: nn.Parameter) -> torch.Tensor:
        gradient = matrix.grad
        assert gradient is not None
        buffer = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        buffer.lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(buffer, _MOMENTUM)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Returns about U Vᵀ for each U S Vᵀ: ``[count, rows, columns]``, with singular values of about 0.7 to 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
