"""The logit lens of every kind of way from a block to the logits, compared with the models' own logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lenscore.lenses import LogitLens
from lenscore.lenses.head_output import HeadOutput, _head_output
from lenscore.models.hidden_states import after_block, run_until
from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError
from tests.causal_families import DEPTH, VOCABULARY, causal_lm
from tests.conftest import make_tokenizer

IDS = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10]]), "use_cache": False}
FAMILIES: dict[str, dict[str, Any]] = {
    # Norms of other names and depths.
    **{family: {} for family in ("lfm2", "llama4_text", "biogpt", "xglm", "ctrl", "rwkv", "bert")},
    # A norm that is used on the embeddings too; soft caps of several names.
    **{"nanochat": {"final_logit_softcapping": 5.0}, "recurrent_gemma": {"logits_soft_cap": 5.0}},
    # Scales before and behind the head; a head with more rows than there are logits.
    "minicpm3": {"dim_model_base": 8, "num_key_value_heads": 4, "scale_depth": 1.0},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5},
    "inkling_text": {"unpadded_vocab_size": 50},
}


def lens_of(model: Any) -> LogitLens:
    tokenizer = make_tokenizer([f"word{i}" for i in range(VOCABULARY - 5)])
    return LogitLens.from_model(Vlm("any", model, tokenizer, None))


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_lens_gives_the_logits_of_the_model_that_ends_there(family: str) -> None:
    """At the last block, and in the middle: there another model is made, with half of the blocks and these weights."""
    model = causal_lm(family, **FAMILIES[family])
    lens, half = lens_of(model), DEPTH // 2
    end = after_block(DEPTH - 1)
    states = run_until(model, IDS, [half, end])
    assert difference(lens.logits(states[end][0]), model(**IDS).logits[0]) < 1e-6
    other = {"scale_depth": (half / DEPTH) ** 0.5} if family == "minicpm3" else {}  # divided by the root of the depth
    shallow = causal_lm(family, depth=half, **FAMILIES[family] | other)
    weights = {name: weight for name, weight in model.state_dict().items() if name in shallow.state_dict()}
    shallow.load_state_dict(weights)
    assert difference(lens.logits(states[half][0]), shallow(**IDS).logits[0]) < 1e-6


@torch.no_grad()
def test_scales_are_found_in_bfloat16_too() -> None:
    for family in ("inkling_text", "minicpm3", "granite", "cohere"):
        model = causal_lm(family, **FAMILIES[family]).bfloat16()
        state = run_until(model, IDS, [after_block(DEPTH - 1)])[after_block(DEPTH - 1)][0]
        assert difference(lens_of(model).logits(state), model(**IDS).logits[0].float()) < 0.01


def test_rows_of_the_head_without_a_logit_are_no_candidates() -> None:
    lens = lens_of(causal_lm("inkling_text", unpadded_vocab_size=50))
    states = torch.randn(1, 3, 32)
    assert sorted(lens.top(states, [2], 45).ids[0, 0].tolist()) == list(range(5, 50))
    with pytest.raises(InputError, match=r"--top-k 46: the logit lens has 45 candidate tokens"):
        lens.top(states, [2], 46)


def test_a_soft_cap_behind_a_scale() -> None:
    model = causal_lm("gemma2", final_logit_softcapping=30.0)
    ramp = torch.linspace(-100, 100, VOCABULARY)
    for expected in (HeadOutput(0.5, 30.0), HeadOutput(2.0, 30.0), HeadOutput(cap=30.0), HeadOutput(0.5)):
        found = _head_output(model, ramp, expected.logits(ramp))
        assert (found.scale, found.cap) == (pytest.approx(expected.scale), expected.cap)


@pytest.mark.parametrize("family", ["gemma3n_text", "openai-gpt"])
def test_a_model_without_a_norm_before_its_head_is_refused(family: str) -> None:
    with pytest.raises(InputError, match=r"--lenses logit: \w+ has no final norm from whose output the LM head"):
        lens_of(causal_lm(family))
