"""Packed sentences, with the plain definition of a beginning as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BertConfig, MambaConfig

from lenscore.contexts.prefix_trees import LONGEST, TREE, model_inputs, pack, understands_trees
from tests.conftest import make_llama
from tests.lenscore.contexts.test_contextual_states import SMALL

SENTENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=LONGEST), min_size=1, max_size=60)


def packed(sentences):
    lengths = np.array([len(sentence) for sentence in sentences])
    tokens = np.full((len(sentences), lengths.max()), -1)
    for row, sentence in enumerate(sentences):
        tokens[row, : len(sentence)] = sentence
    return pack(tokens, lengths)


@settings(deadline=None)
@given(SENTENCES)
def test_a_token_sees_the_beginning_of_its_sentence_and_nothing_else(sentences):
    trees = packed(sentences)
    parts = (torch.from_numpy(part) for part in (trees.ids, trees.positions, trees.ends))
    inputs = model_inputs(*parts, torch.float32)
    sees = inputs["attention_mask"][:, 0] == 0
    assert trees.ids.shape[1] == TREE
    for sentence, places in zip(sentences, trees.places, strict=True):
        for position in range(len(sentence)):
            tree, place = divmod(int(places[position]), TREE)
            seen = sees[tree, place].nonzero()[:, 0].numpy()
            assert trees.ids[tree, seen].tolist() == sentence[: position + 1]
            assert trees.positions[tree, seen].tolist() == list(range(position + 1))
    assert sees.diagonal(dim1=1, dim2=2).all(), "a place that sees nothing gives NaN"


@settings(deadline=None)
@given(SENTENCES, st.randoms())
def test_trees_depend_on_the_sentences_and_not_on_their_order(sentences, random):
    order = list(range(len(sentences)))
    random.shuffle(order)
    one, other = packed(sentences), packed([sentences[i] for i in order])
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.places[order], other.places)


def test_what_sentences_share_is_there_once():
    rng = np.random.default_rng(0)
    sentences = [[1, 2, 3, *rng.integers(4, 9, 2).tolist()] for _ in range(500)]
    beginnings = {tuple(sentence[:end]) for sentence in sentences for end in range(1, 6)}
    assert packed(sentences).ids.shape == (-(-len(beginnings) // TREE), TREE)


@pytest.mark.parametrize("config", [BertConfig(**SMALL), MambaConfig(**SMALL)], ids=["bert", "mamba"])
def test_models_that_give_other_states_in_trees_are_found_out(config):
    torch.manual_seed(0)
    assert not understands_trees(AutoModelForCausalLM.from_config(config).eval(), range(5, 60))


def test_half_precision_does_not_hide_trees_from_a_model():
    assert understands_trees(make_llama().bfloat16(), range(5, 25))
