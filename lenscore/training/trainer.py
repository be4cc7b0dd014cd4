"""The training itself: one step after the other, each a function of the state before it and of its number alone."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lenscore.models.decoder import decoder_of
from lenscore.training.batches import CaptionBatches
from lenscore.training.caption_loss import CaptionLoss
from lenscore.training.cpu_attention import Float32Attention
from lenscore.training.schedule import share_of_peak
from storage_layouts.errors import InputError

ARITHMETIC = 3
"""Counts the changes that make a step round otherwise, so that no run mixes two. 2: logits at the caption positions
alone, attention without a mask and on a CPU in float32. 3: examples of like length together, gradients of logits beside
the loss, no bfloat16 on a CPU without instructions for it."""


@dataclass(frozen=True)
class Part:
    """Parameters that are trained at one rate, by name, and clipped together."""

    name: str
    parameters: dict[str, nn.Parameter]
    learning_rate: float
    warmup: int


@dataclass(frozen=True)
class Recipe:
    """How it is trained; the defaults are those of the LatentLens paper's code.

    Attributes:
        steps: updates in all.
        last_rate: share of the peak rate at the end.
        weight_decay: of AdamW.
        clip: largest norm of the gradient of a part (connector, LLM, encoder).
        autocast: compute in bfloat16 where PyTorch holds that to be safe; trained weights stay in float32.

    """

    steps: int
    last_rate: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    autocast: bool = False
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-6


@dataclass(frozen=True)
class StepRecord:
    """What one step was like.

    `loss` is the mean cross-entropy of the learnt tokens (nats) before the update; `gradient_norm` (before clipping)
    and `learning_rate` are the connector's; `unreadable` are the left-out pairs by index, with the reason.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    unreadable: dict[int, str]


def parts_of(
    model: Any, unfreeze_llm: bool, unfreeze_vit: bool, rates: tuple[float, float, float], warmups: tuple[int, int]
) -> list[Part]:
    """Freeze all but what is trained, which becomes float32.

    `rates` are the peaks of connector, LLM and encoder, `warmups` the steps to that of the connector and of the others.
    Of an unfrozen LLM the embeddings and the head stay as they are, as in the paper.
    """
    model.requires_grad_(False)
    modules: dict[str, list[nn.Module]] = {"connector": [model.connector]}
    decoder = decoder_of(model)
    if unfreeze_llm:
        modules["llm"] = [decoder.layers, *([decoder.norm] if decoder.norm is not None else [])]
    if unfreeze_vit:
        modules["vit"] = [model.model.vision_tower]
    by_name = dict(zip(("connector", "llm", "vit"), rates, strict=True))
    parts = []
    for name, trained in modules.items():
        for module in trained:
            module.float().requires_grad_(True)
        ids = {id(parameter) for module in trained for parameter in module.parameters()}
        named = {key: parameter for key, parameter in model.named_parameters() if id(parameter) in ids}
        parts.append(Part(name, named, by_name[name], warmups[0] if name == "connector" else warmups[1]))
    return parts


class ConnectorTrainer:
    """A model in training. The model stays in eval mode: nothing in it is drawn at random.

    Attributes:
        model: the model itself, whatever accelerate has wrapped around it.
        step: number of the next step.

    """

    def __init__(
        self, model: Any, parts: list[Part], batches: CaptionBatches, recipe: Recipe, accelerator: Accelerator
    ) -> None:
        self._parts, self._batches, self._recipe, self._accelerator = parts, batches, recipe, accelerator
        self.model = model
        self._wrapped = accelerator.prepare(CaptionLoss(model))
        self._optimizer = torch.optim.AdamW(
            [{"params": list(part.parameters.values()), "lr": part.learning_rate} for part in parts],
            betas=recipe.betas,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
        )
        self.step = 0

    def train_step(self) -> StepRecord:
        """Do the next step.

        Raises InputError if the loss is not finite, or if the data cannot be read.
        """
        batch = self._batches.take(self.step)
        for part, group in zip(self._parts, self._optimizer.param_groups, strict=True):
            share = share_of_peak(self.step, self._recipe.steps, part.warmup, self._recipe.last_rate)
            group["lr"] = part.learning_rate * share
        loss = torch.zeros((), device=self._accelerator.device)
        for number, inputs in enumerate(batch.micro, start=1):
            # Gradients of several processes are exchanged once, with the last of their forward passes.
            with self._accelerator.no_sync(self._wrapped) if number < len(batch.micro) else contextlib.nullcontext():
                part_of_loss = self._loss(inputs, batch.tokens)
                # DistributedDataParallel takes the mean over the processes, and the sum is wanted.
                self._accelerator.backward(part_of_loss * self._accelerator.num_processes)
            loss += part_of_loss.detach()
        total = float(self._accelerator.reduce(loss, "sum"))
        if not math.isfinite(total):
            raise InputError(
                f"the loss of step {self.step} is {total}; try a smaller --learning-rate, or --precision float32"
            )
        norms = [
            torch.nn.utils.clip_grad_norm_(list(part.parameters.values()), self._recipe.clip) for part in self._parts
        ]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        rate = self._optimizer.param_groups[0]["lr"]
        record = StepRecord(self.step, total, float(norms[0]), rate, batch.tokens, batch.unreadable)
        self.step += 1
        return record

    def source_of(self, pair: int) -> str:
        """Where the image of a pair lies."""
        return self._batches.source_of(pair)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, besides its number: trained weights and what AdamW remembers."""
        tensors = {}
        for part in self._parts:
            for name, parameter in part.parameters.items():
                tensors[f"weight/{name}"] = parameter.detach()
                for key, value in self._optimizer.state.get(parameter, {}).items():
                    tensors[f"{key}/{name}"] = value
        return {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}

    def load_state(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go on from `state()` as it was before `step`. KeyError or RuntimeError if it is of another model."""
        remembered: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            key, _, owner = name.partition("/")
            remembered.setdefault(owner, {})[key] = tensor
        self._optimizer.state.clear()
        self._optimizer.zero_grad(set_to_none=True)  # of a step that was interrupted
        for part in self._parts:
            for name, parameter in part.parameters.items():
                found = remembered[name]
                with torch.no_grad():
                    parameter.copy_(found.pop("weight"))
                if found:
                    # AdamW counts its steps on the host.
                    self._optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device) for key, value in found.items()
                    }
        self.step = step

    def _loss(self, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        """The share of one forward pass in the mean loss over all learnt tokens of the batch."""
        device = self._accelerator.device
        inputs = {name: value.to(device) for name, value in inputs.items()}
        # Not accelerate's own mixed precision, which is one for all trainings of a process.
        low = torch.autocast(device.type, torch.bfloat16, enabled=self._recipe.autocast)
        with low, Float32Attention() if device.type == "cpu" else contextlib.nullcontext():
            loss: Tensor = self._wrapped(tokens=tokens, **inputs)
        return loss
