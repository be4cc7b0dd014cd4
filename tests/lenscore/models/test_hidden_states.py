"""`get_hidden_states`: padding on the left, and what its entries are."""

from __future__ import annotations

import pytest
import torch

from lenscore.models.hidden_states import get_hidden_states
from tests.causal_families import causal_lm

LONG, SHORT, PAD = [5, 6, 7, 8, 9, 10], [11, 12, 13], 0
# Positions that are learnt, sinusoidal, rotary, scaled with the length, and in no position at all but in the order.
PADDED = ["gpt2", "opt", "xglm", "biogpt", "ctrl", "llama", "hunyuan_v1_moe", "rwkv", "recurrent_gemma", "bert"]


@pytest.mark.parametrize("family", PADDED)
def test_padding_on_either_side_moves_no_position(family: str) -> None:
    model = causal_lm(family)
    long, short = (get_hidden_states(model, torch.tensor([ids])) for ids in (LONG, SHORT))
    missing = len(LONG) - len(SHORT)
    for left in (missing, 1, 0):
        row = [PAD] * left + SHORT + [PAD] * (missing - left)
        ids, mask = torch.tensor([LONG, row]), torch.tensor([[1] * len(LONG), [int(i != PAD) for i in row]])
        inside = slice(left, left + len(SHORT))
        for padded, *alone in zip(get_hidden_states(model, ids, mask), long, short, strict=True):
            torch.testing.assert_close(padded[0], alone[0][0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(padded[1, inside], alone[1][0], rtol=1e-4, atol=1e-4)


def test_positions_that_are_given_are_kept() -> None:
    model = causal_lm("gpt2")
    ids, mask = torch.tensor([[PAD, *SHORT]]), torch.tensor([[0, 1, 1, 1]])
    moved = get_hidden_states(model, ids, mask, position_ids=torch.tensor([[0, 7, 8, 9]]))
    at_zero = get_hidden_states(model, ids, mask, position_ids=torch.tensor([[0, 0, 1, 2]]))
    for of_mask, given, other in zip(get_hidden_states(model, ids, mask), at_zero, moved, strict=True):
        torch.testing.assert_close(of_mask[0, 1:], given[0, 1:])
        assert not torch.allclose(given[0, 1:], other[0, 1:])


def test_a_mask_of_cached_tokens_too_is_left_as_it_is() -> None:
    model = causal_lm("llama")
    ids, mask = torch.tensor([[PAD, *SHORT]]), torch.tensor([[0, 1, 1, 1]])
    with torch.no_grad():
        cache = model(input_ids=ids[:, :2], attention_mask=mask[:, :2], use_cache=True).past_key_values
    whole = get_hidden_states(model, ids, mask)
    for found, expected in zip(get_hidden_states(model, ids[:, 2:], mask, past_key_values=cache), whole, strict=True):
        torch.testing.assert_close(found, expected[:, 2:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["mamba", "rwkv"])
def test_entry_l_is_the_input_of_block_l_also_where_transformers_counts_otherwise(family: str) -> None:
    """As docs/latentlens.md says: there, entry l is the output of block l, and the last one is the final state."""
    model, ids = causal_lm(family), torch.tensor([LONG])
    with torch.no_grad():
        theirs = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        embedded = model.get_input_embeddings()(ids)
    ours = get_hidden_states(model, ids)
    if family == "mamba":
        assert torch.equal(ours[0], embedded)
    for here, there in zip(ours[1:-1], theirs[:-2], strict=True):
        torch.testing.assert_close(here, there)
    torch.testing.assert_close(ours[-1], theirs[-1])
