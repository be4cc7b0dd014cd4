"""The training step: against a plain loop in float64, split into parts, and taken up again."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from lenscore import shapes
from lenscore.training import caption_loss
from lenscore.training.assembly import Parts, assemble
from lenscore.training.batches import BatchOrder, CaptionBatches
from lenscore.training.checkpoints import newest_state, save_state
from lenscore.training.cpu_attention import Float32Attention
from lenscore.training.examples import TextRules
from lenscore.training.pairs import Columns, find_pairs
from lenscore.training.schedule import share_of_peak
from lenscore.training.trainer import ConnectorTrainer, Recipe, parts_of
from storage_layouts.errors import InputError
from tests.training_parts import save_encoder, save_llm

STEPS, WARMUP, RATE = 5, 2, 0.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainer")
    save_llm("llama", folder / "llm")
    save_encoder("siglip", folder / "vit")
    shapes.write_images(folder / "train", "train", 10)
    return folder


def trainer_for(folder, micro=4, unfreeze=False, rate=RATE, **recipe) -> ConnectorTrainer:
    parts = Parts(str(folder / "llm"), str(folder / "vit"), vit_layers=(-2, -4))
    model, processor = assemble(parts, 0, torch.float32)
    pairs = find_pairs(str(folder / "train"), Columns())
    order = BatchOrder(len(pairs), 4, 0)
    batches = CaptionBatches(pairs, processor, 64, TextRules("describe:"), order, micro)
    trained = parts_of(model, unfreeze, unfreeze, (rate, rate / 2, rate / 4), (WARMUP, 3))
    return ConnectorTrainer(model, trained, batches, Recipe(STEPS, **recipe), Accelerator(cpu=True))


def test_steps_equal_a_plain_loop_in_float64(folder):
    trainer = trainer_for(folder, clip=0.05, weight_decay=0.1)
    plain = trainer_for(folder)
    model, batches = plain.model.double(), plain._batches
    weights = dict(model.connector.named_parameters())
    first, second = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    for step in range(STEPS):
        record = trainer.train_step()
        (inputs,) = batches.take(step).micro
        labels = inputs["labels"]
        total = torch.zeros((), dtype=torch.float64)
        for row, length in enumerate((labels != -100).int().cumsum(1).argmax(1) + 1):
            # Each image by itself, without padding.
            ids, pixels = inputs["input_ids"][row : row + 1, :length], inputs["pixel_values"][row : row + 1].double()
            logits = model(input_ids=ids, pixel_values=pixels).logits[0]
            total = total + F.cross_entropy(logits[:-1], labels[row, 1:length], ignore_index=-100, reduction="sum")
        loss = total / int((labels != -100).sum())
        assert record.loss == pytest.approx(loss.item(), rel=1e-5)
        assert record.tokens == int((labels != -100).sum())
        gradients = torch.autograd.grad(loss, list(weights.values()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert record.gradient_norm == pytest.approx(norm.item(), rel=1e-4)
        assert norm > 0.05  # so clipping is seen
        rate = RATE * share_of_peak(step, STEPS, WARMUP, 0.1)
        assert record.learning_rate == pytest.approx(rate)
        with torch.no_grad():
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                gradient = gradient * 0.05 / norm
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.95 * second[name] + 0.05 * gradient**2
                ahead = first[name] / (1 - 0.9 ** (step + 1))
                size = (second[name] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-6
                weight.mul_(1 - rate * 0.1).sub_(rate * ahead / size)
    for name, weight in trainer.model.connector.named_parameters():
        assert np.allclose(weight.detach().numpy(), weights[name].detach().numpy(), atol=2e-4), name


def test_what_is_frozen_stays_and_micro_batches_only_round(folder):
    whole, split = trainer_for(folder), trainer_for(folder, micro=1)
    before = {name: weight.clone() for name, weight in whole.model.state_dict().items()}
    for _ in range(3):
        assert whole.train_step().loss == pytest.approx(split.train_step().loss, rel=1e-5)
    for name, weight in whole.model.state_dict().items():
        moved = not torch.equal(weight, before[name])
        assert moved == ("projector" in name), name


@pytest.mark.parametrize("unfreeze", [False, True])
def test_a_state_on_disk_goes_on_exactly(folder, tmp_path, unfreeze):
    trainer = trainer_for(folder, unfreeze=unfreeze)
    for step in (1, 2, 3):
        trainer.train_step()
        save_state(tmp_path / "state", "run", step, trainer.state())
    assert len(list((tmp_path / "state").glob("*.safetensors"))) == 2

    # A damaged state and one of another run are passed over.
    newest = tmp_path / "state/00000003.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes(bytes(data))
    assert newest_state(tmp_path / "state", "other", 9) is None
    assert newest_state(tmp_path / "state", "run", 1) is None
    step, tensors = newest_state(tmp_path / "state", "run", 9)
    assert step == 2

    again = trainer_for(folder, unfreeze=unfreeze)
    again.load_state(tensors, step)
    third = again.train_step()
    assert third.step == 2
    for _ in range(2):
        assert trainer.train_step() == again.train_step()
    assert all(torch.equal(weight, again.state()[name]) for name, weight in trainer.state().items())


def test_a_loss_that_is_not_finite_ends_the_run(folder):
    trainer = trainer_for(folder)
    with torch.no_grad():
        next(trainer.model.connector.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="the loss of step 0 is nan; try a smaller --learning-rate"):
        trainer.train_step()


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_the_loss_is_that_of_transformers_however_it_is_cut(folder, monkeypatch, at_once):
    monkeypatch.setattr(caption_loss, "POSITIONS_AT_ONCE", at_once)
    trainer = trainer_for(folder)
    (inputs,) = trainer._batches.take(0).micro
    tokens = int((inputs["labels"] != -100).sum())
    weights = list(trainer.model.connector.parameters())
    expected = trainer.model(**inputs, use_cache=False).loss
    found = trainer._wrapped(tokens=tokens, **inputs)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(*(torch.autograd.grad(loss, weights) for loss in (found, expected)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7, rtol=1e-4)
    # Nothing to learn: no loss, and a gradient all the same, for other processes wait for it.
    nothing = trainer._wrapped(tokens=tokens, **inputs | {"labels": torch.full_like(inputs["labels"], -100)})
    assert nothing.item() == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(nothing, weights))


def test_logits_are_never_there_for_more_positions_than_are_computed_at_once(folder, monkeypatch):
    """A head of many tokens on few dimensions: its logits are what the memory is needed for."""
    monkeypatch.setattr(caption_loss, "POSITIONS_AT_ONCE", 8)
    trainer = trainer_for(folder)
    seen: list[tuple[int, ...]] = []
    trainer.model.lm_head.register_forward_pre_hook(lambda head, states: seen.append(tuple(states[0].shape)))
    head = trainer.model.lm_head.weight
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()
    logits = [0]

    def keep(tensor: torch.Tensor) -> Kept:
        kept = Kept(tensor)
        if len(head) in tensor.shape and tensor.untyped_storage().data_ptr() != head.untyped_storage().data_ptr():
            alive.add(kept)
            logits.append(sum(one.tensor.numel() for one in alive))
        return kept

    (inputs,) = trainer._batches.take(0).micro
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        trainer._wrapped(tokens=1, **inputs).backward()
    learnt = int((inputs["labels"] != -100).sum())
    assert learnt > 40
    assert max(positions for positions, _ in seen) == 8
    assert sum(positions for positions, _ in seen) == learnt  # each is computed once
    assert 0 < max(logits) <= 2 * 8 * len(head)  # the logits, and their logarithms of a softmax


class Kept:
    """What autograd keeps, as an object whose end is seen."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def test_attention_on_a_cpu_is_that_of_float32():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 8).bfloat16().requires_grad_() for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16), Float32Attention():
        found = F.scaled_dot_product_attention(query, key, value=value, is_causal=True)
        named = F.scaled_dot_product_attention(query=query, key=key, value=value, is_causal=True)
    assert torch.equal(found, named)
    scores = (query.double() @ key.double().transpose(-1, -2) / 8**0.5).masked_fill(
        ~torch.ones(7, 7, dtype=torch.bool).tril(), -torch.inf
    )
    expected = scores.softmax(-1) @ value.double()
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double(), expected, rtol=2**-8, atol=1e-6)
    found.sum().backward()
    assert query.grad.dtype == torch.bfloat16
    assert torch.allclose(query.grad.double(), torch.autograd.grad(expected.sum(), query)[0].double(), atol=2e-2)
