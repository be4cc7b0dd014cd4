"""The training of translators against the same in float64, written out."""

from __future__ import annotations

import pytest
import torch

from lenscore.lenses import LogitLens
from lenscore.lenses.head_output import HeadOutput
from lenscore.tuning import translator_training as training
from lenscore.tuning.translator_training import Recipe, TranslatorTrainer
from storage_layouts.errors import InputError
from tests.conftest import make_llama, make_tokenizer

DIM, LAYERS, TOKENS, STEPS = 32, (0, 2), 13, 4
SCALE, CAP = 0.5, 8.0


def some_steps() -> list[dict[int, torch.Tensor]]:
    """States of the layers, and under 4 those after the last block, at every step."""
    generator = torch.Generator().manual_seed(3)
    return [{layer: torch.randn(TOKENS, DIM, generator=generator) for layer in (*LAYERS, 4)} for _ in range(STEPS)]


def logit_lens() -> LogitLens:
    model = make_llama()
    return LogitLens(model.model.norm, model.lm_head.weight * 3, None, make_tokenizer(), HeadOutput(1.0, CAP), SCALE)


def trained(recipe: Recipe, interrupted_at: int | None = None) -> tuple[TranslatorTrainer, list[list[float]]]:
    device, losses = torch.device("cpu"), []
    trainer = TranslatorTrainer(logit_lens(), LAYERS, DIM, recipe, device)
    for number, states in enumerate(some_steps()):
        if number == interrupted_at:
            state, trainer = trainer.state(), TranslatorTrainer(logit_lens(), LAYERS, DIM, recipe, device)
            trainer.load_state({name: tensor.clone() for name, tensor in state.items()}, number)
        for some in (slice(0, 5), slice(5, None)):
            trainer.add({layer: state[some] for layer, state in states.items()}, states[4][some], TOKENS)
        losses.append(trainer.update())
    return trainer, losses


def log_p_exactly(states: torch.Tensor) -> torch.Tensor:
    model = make_llama().double()
    normed = states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps)
    outputs = (normed * model.model.norm.weight.detach() * SCALE) @ (model.lm_head.weight.detach() * 3).T
    return torch.log_softmax(CAP * torch.tanh(outputs / CAP), -1)


def exactly(layer: int, recipe: Recipe) -> tuple[list[float], torch.Tensor, torch.Tensor]:
    """Losses, W and b in float64: SGD with Nesterov momentum 0.9, clipped and decayed."""
    losses, parameters = [], [torch.zeros(DIM, DIM).double(), torch.zeros(DIM).double()]
    velocities: list[torch.Tensor | None] = [None, None]
    for step, states in enumerate(some_steps()):
        weight, bias = (parameter.requires_grad_() for parameter in parameters)
        h, target = states[layer].double(), log_p_exactly(states[4].double())
        found = log_p_exactly(h + h @ weight.T + bias)
        loss = (target.exp() * (target - found)).sum(-1).mean()
        gradients = torch.autograd.grad(loss, (weight, bias))
        norm = torch.sqrt(sum(gradient.pow(2).sum() for gradient in gradients))
        losses.append(float(loss.detach()))
        rate = 0.1 * recipe.learning_rate * (1 - step / recipe.steps)
        for number, gradient in enumerate(gradients):
            old = parameters[number].detach()
            moved = gradient * min(1.0, recipe.clip / float(norm)) + recipe.weight_decay * old
            velocity = velocities[number]
            velocity = moved if velocity is None else 0.9 * velocity + moved
            velocities[number] = velocity
            parameters[number] = old - rate * (moved + 0.9 * velocity)
    return losses, parameters[0], parameters[1]


@pytest.mark.parametrize("clip", [0.05, 100.0])  # always, and never
def test_losses_and_translators_are_those_of_float64(clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TOKENS_AT_ONCE", 3)
    recipe = Recipe(STEPS, "sgd", 0.7, weight_decay=0.01, clip=clip)
    trainer, losses = trained(recipe)
    for number, layer in enumerate(LAYERS):
        expected, weight, bias = exactly(layer, recipe)
        assert losses[0][number] > 0.5
        torch.testing.assert_close(
            torch.tensor([step[number] for step in losses]), torch.tensor(expected), rtol=2e-5, atol=0
        )
        torch.testing.assert_close(trainer.weights()[f"{layer}.weight"].double(), weight, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(trainer.weights()[f"{layer}.bias"].double(), bias, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_saved_state_is_all_that_the_next_step_depends_on(optimizer: str) -> None:
    recipe = Recipe(STEPS, optimizer, 0.01)
    (whole, losses), (resumed, again) = trained(recipe), trained(recipe, interrupted_at=2)
    assert losses == again
    assert all(torch.equal(tensor, resumed.weights()[name]) for name, tensor in whole.weights().items())


def test_a_loss_that_is_not_finite_is_refused() -> None:
    trainer = TranslatorTrainer(logit_lens(), (1,), DIM, Recipe(1, "sgd", 1.0), torch.device("cpu"))
    trainer.add({1: torch.full((2, DIM), torch.nan)}, torch.ones(2, DIM), 2)
    with pytest.raises(InputError, match="layer 1: the loss of step 0 is nan; try a smaller --learning-rate"):
        trainer.update()
