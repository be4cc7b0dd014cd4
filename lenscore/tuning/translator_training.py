"""The training of translators: of each layer by itself, so that any group of layers comes to the same numbers.

The loss of layer l is KL(p_final || p_l) in nats per token, where p_l = softmax(head(norm(h + W_l h + b_l))), and
p_final is the distribution after the last block (Belrose et al. 2023, arXiv 2303.08112). Norm and head are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lenscore.lenses.logit import LogitLens
from storage_layouts.errors import InputError

TOKENS_AT_ONCE = 512
"""Tokens whose logits are in memory at the same time, on any machine: another number would round otherwise."""

MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """How translators are trained.

    Attributes:
        steps: updates in all.
        optimizer: "sgd" with Nesterov momentum, or "adam" with amsgrad.
        learning_rate: of the first step; it falls linearly, and would be 0 at step `steps`. For SGD it is the length of
            a step in units of the averaged gradient (PyTorch's rate divided by 1 - momentum), as in the tuned-lens
            package.
        weight_decay: pulls W and b to 0, where the lens is LogitLens.
        clip: largest norm of the gradient of one translator.

    """

    steps: int
    optimizer: str
    learning_rate: float
    weight_decay: float = 1e-3
    clip: float = 1.0


class TranslatorTrainer:
    """Translators of some layers in training: W and b, float32, begin at 0.

    Attributes:
        layers: whose translators are trained.
        step: number of the next step.

    """

    def __init__(self, lens: LogitLens, layers: Sequence[int], dim: int, recipe: Recipe, device: torch.device) -> None:
        self._lens, self._recipe = lens, recipe
        self.layers = tuple(layers)
        self._translators = {layer: _at_zero(dim, device) for layer in layers}
        self._optimizer = _optimizer(recipe, [p for one in self._translators.values() for p in one.parameters()])
        self._losses = torch.zeros(len(self.layers), device=device)
        self.step = 0

    def add(self, states: Mapping[int, Tensor], last: Tensor, tokens: int) -> None:
        """Add the gradients of a part of the step.

        Args:
            states: of each layer [n, dim], in any float dtype.
            last: outputs of the last block [n, dim] at the same tokens.
            tokens: of the whole step.

        """
        for first in range(0, len(last), TOKENS_AT_ONCE):
            some = slice(first, first + TOKENS_AT_ONCE)
            target = self._lens.differentiable_logits(last[some]).log_softmax(-1)
            p_final = target.exp()
            entropy = -_inner(p_final, target) / tokens
            for number, (layer, translator) in enumerate(self._translators.items()):
                state = states[layer][some].to(p_final.device, torch.float32)
                log_p = self._lens.differentiable_logits(state + translator(state)).log_softmax(-1)
                cross_entropy = -_inner(p_final, log_p) / tokens
                cross_entropy.backward()
                self._losses[number] += cross_entropy.detach() - entropy

    def update(self) -> list[float]:
        """End the step: clip each translator's gradient and move it. Returns the mean loss of each layer, in nats.

        Raises InputError for a loss that is not finite.
        """
        losses: list[float] = self._losses.tolist()
        for layer, loss in zip(self.layers, losses, strict=True):
            if not math.isfinite(loss):
                raise InputError(
                    f"layer {layer}: the loss of step {self.step} is {loss}; "
                    "try a smaller --learning-rate, or --dtype float32"
                )
        for translator in self._translators.values():
            torch.nn.utils.clip_grad_norm_(translator.parameters(), self._recipe.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = _torch_rate(self._recipe) * (1 - self.step / self._recipe.steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._losses.zero_()
        self.step += 1
        return losses

    @torch.no_grad()
    def translated(self, layer: int, states: Tensor) -> Tensor:
        """States [..., dim] of a layer as they go into the final norm, float32."""
        states = states.float()
        return states + self._translators[layer](states)

    def weights(self) -> dict[str, Tensor]:
        """The translators as they are: "3.weight" [dim, dim] and "3.bias" [dim] of layer 3, float32 on the host."""
        return {name: parameter.detach().cpu() for name, parameter in self._parameters()}

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, besides its number."""
        remembered = {
            f"{name}/{key}": value.cpu()
            for name, parameter in self._parameters()
            for key, value in self._optimizer.state[parameter].items()
        }
        return {name: tensor.contiguous() for name, tensor in (self.weights() | remembered).items()}

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on from `state()` as it was before `step`."""
        for name, parameter in self._parameters():
            with torch.no_grad():
                parameter.copy_(tensors[name])
            # Adam counts its steps on the host.
            self._optimizer.state[parameter] = {
                key.removeprefix(f"{name}/"): value if key.endswith("/step") else value.to(parameter.device)
                for key, value in tensors.items()
                if key.startswith(f"{name}/")
            }
        self.step = step

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for layer, translator in self._translators.items():
            yield from ((f"{layer}.{name}", parameter) for name, parameter in translator.named_parameters())


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products, without memory for the products."""
    return torch.dot(a.flatten(), b.flatten())


def _at_zero(dim: int, device: torch.device) -> nn.Linear:
    translator = nn.Linear(dim, dim, device=device, dtype=torch.float32)
    nn.init.zeros_(translator.weight)
    nn.init.zeros_(translator.bias)
    return translator


def _torch_rate(recipe: Recipe) -> float:
    return recipe.learning_rate * (1 - MOMENTUM) if recipe.optimizer == "sgd" else recipe.learning_rate


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """With the settings of the tuned-lens package."""
    rate, decay = _torch_rate(recipe), recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, MOMENTUM, nesterov=True, weight_decay=decay)
    return torch.optim.Adam(parameters, rate, (MOMENTUM, 0.999), amsgrad=True, weight_decay=decay)
