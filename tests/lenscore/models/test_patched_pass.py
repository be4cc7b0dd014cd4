"""States in the place of a token of a prompt, against the whole prompt with a hook, without a cache, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lenscore.models.decoder import decoder_of
from lenscore.models.hidden_states import after_block, run_until
from lenscore.models.patched_pass import PatchedPass
from lenscore.models.text_only import text_inputs
from tests.causal_families import DEPTH, WIDTH, causal_lm
from tests.families import BUILDERS

IDS = [1, 8, 9, 10, 11, 12, 13, 14]
LAST = len(IDS) - 1


def plainly(model: Any, ids: list[int], place: int, layer: int, state: Tensor) -> Tensor:
    """The last block's output [1, dim] at the last token, by one forward pass of everything."""

    def patch(_module: Any, args: Any, kwargs: Any) -> Any:
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        hidden[0, place] = state.to(hidden.dtype)
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

    hook = decoder_of(model).layers[layer].register_forward_pre_hook(patch, with_kwargs=True)
    last = after_block(DEPTH - 1)
    found = run_until(model, text_inputs(model, torch.tensor([ids])), [last])[last][:, -1]
    hook.remove()
    return found


def assert_close(found: Tensor, expected: Tensor, rounding: float = 3e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=rounding * float(expected.abs().max()))


def assert_same_as_plainly(model: Any, place: int, whole_prompt: bool) -> None:
    patched = PatchedPass(model, IDS, place)
    assert patched.runs_whole_prompt == whole_prompt
    states = torch.randn(3, WIDTH)
    for layer in range(DEPTH):
        found = patched.outputs(states, layer)
        model.double()
        assert_close(found, torch.cat([plainly(model, IDS, place, layer, state) for state in states]))
        model.float()
    assert not any("forward" in vars(block) for block in decoder_of(model).layers)


@pytest.mark.parametrize(
    ("family", "place"),
    [
        *((family, LAST) for family in ("llama", "gpt2", "bloom", "gemma4_text", "rwkv")),
        *((family, LAST - 2) for family in ("llama", "lfm2")),
    ],
)
def test_it_is_the_whole_prompt_with_a_state_replaced(family: str, place: int) -> None:
    """With rotary, learned and no positions; keys of earlier blocks; no cache; convolutions."""
    assert_same_as_plainly(causal_lm(family), place, family == "rwkv")


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3", "paligemma"])
def test_on_the_language_model_of_a_vlm(family: str) -> None:
    """PaliGemma reads a text in both directions, so what is before the state depends on it."""
    torch.manual_seed(0)
    model = BUILDERS[family]()[0].eval()
    if family == "qwen2_vl":  # as after an image, from which it would number the positions of the next text
        model.model.rope_deltas = torch.tensor([[-7]])
    assert_same_as_plainly(model, LAST, family == "paligemma")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_models_own_states_give_its_own_output(dtype: torch.dtype) -> None:
    model = causal_lm("llama").to(dtype)
    patched = PatchedPass(model, IDS, LAST)
    assert not patched.runs_whole_prompt
    names = [*range(DEPTH), after_block(DEPTH - 1)]
    own = run_until(model, {"input_ids": torch.tensor([IDS])}, names)
    expected = own[after_block(DEPTH - 1)][0, -1:]
    for layer, name in enumerate(names):
        found = patched.outputs(own[name][0, -1:], layer)
        assert found.dtype == dtype
        assert_close(found, expected, 0.03 if dtype == torch.bfloat16 else 3e-5)


def test_states_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does their number at a time matter, except for rounding."""
    patched = PatchedPass(causal_lm("llama"), IDS, LAST)
    states = torch.randn(7, WIDTH)
    together = patched.outputs(states, 1)
    others = states.clone()
    others[1:] += 1
    assert torch.equal(patched.outputs(others, 1)[0], together[0])
    monkeypatch.setattr("lenscore.models.patched_pass.MOST_STATES", 2)
    assert patched.together() == 2
    assert_close(patched.outputs(states, 1), together)


def test_a_prompt_of_one_token_and_a_place_before_the_end() -> None:
    model = causal_lm("llama")
    states = torch.randn(2, WIDTH)
    assert PatchedPass(model, IDS[:1], 0).outputs(states, 2).shape == states.shape
    before = PatchedPass(model, IDS, 2)
    last = run_until(model, {"input_ids": torch.tensor([IDS])}, [after_block(DEPTH - 1)])[after_block(DEPTH - 1)]
    assert torch.equal(before.outputs(states, DEPTH), last[0, -1:].expand(2, -1))  # nothing runs on from there


@pytest.mark.parametrize(("family", "place"), [("llama", LAST), ("gemma4_text", LAST), ("rwkv", LAST), ("lfm2", 4)])
def test_continuations_are_those_of_the_growing_prompt(family: str, place: int) -> None:
    """One forward pass of everything so far for each token, with the state replaced in each."""
    model, states = causal_lm(family), torch.randn(3, WIDTH)
    patched = PatchedPass(model, IDS, place)

    def next_of(outputs: Tensor) -> Tensor:
        return model.get_output_embeddings()(outputs)[:, 3:].argmax(dim=1) + 3

    for layer in (0, 2, DEPTH - 1):
        found = patched.continuations(states, layer, next_of, 4, ()).tolist()
        for state, continued in zip(states, found, strict=True):
            for number, token in enumerate(continued):
                before = [*IDS, *continued[:number]]
                assert token == int(next_of(plainly(model, before, place, layer, state)))
    ends = patched.continuations(states, 1, lambda outputs: torch.full((len(outputs),), 2), 4, (2, 5))
    assert ends.tolist() == [[2] * 4] * 3


def test_a_state_after_the_last_block_decides_only_the_first_token() -> None:
    model, states = causal_lm("llama"), torch.randn(3, WIDTH)
    patched = PatchedPass(model, IDS, LAST)
    found = patched.continuations(states, DEPTH, lambda outputs: model.lm_head(outputs).argmax(dim=1), 2, ())
    assert torch.equal(found[:, 0], model.lm_head(states).argmax(dim=1))
    for first, second in found.tolist():
        states_of_text = run_until(model, {"input_ids": torch.tensor([[*IDS, first]])}, [after_block(DEPTH - 1)])
        assert second == int(model.lm_head(states_of_text[after_block(DEPTH - 1)][0, -1]).argmax())
