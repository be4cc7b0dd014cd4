"""Rows and their states against the model's own hidden states in float64, over several architectures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, BertConfig

from lenscore.contexts import context_table, tokenization
from lenscore.contexts.context_table import choose_rows
from lenscore.contexts.contextual_states import RowReader
from lenscore.contexts.row_choice import RowChoice
from lenscore.models.fingerprints import text_weights_fingerprint, tokenizer_fingerprint
from lenscore.models.hidden_states import FINAL, get_hidden_states, run_until
from lenscore.models.layers import resolve_layers
from lenscore.models.text_only import is_causal
from storage_layouts.errors import InputError
from tests.conftest import VOCABULARY_ROWS, WORDS, make_llama, make_llava, make_tokenizer

SMALL = {
    "vocab_size": VOCABULARY_ROWS,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}
ARCHITECTURES = {
    "llama": SMALL,
    "qwen2": SMALL | {"num_key_value_heads": 2},
    "olmo2": SMALL,
    "gemma3_text": SMALL | {"head_dim": 8, "num_key_value_heads": 2, "sliding_window": 4},
    "gpt_neox": SMALL,
    "gpt2": {"vocab_size": VOCABULARY_ROWS, "n_embd": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.3},
    "opt": SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3, "max_position_embeddings": 64},
}


def make_model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**ARCHITECTURES[kind])).eval()


def make_corpus(count: int = 60) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_row_equals_the_models_own_hidden_state(kind):
    model, tokenizer, corpus = make_model(kind), make_tokenizer(), make_corpus(300)
    table = choose_rows(lambda: iter(corpus), tokenizer, RowChoice(per_token=8))
    texts = dict(zip(table.sentences["sentence_id"].to_pylist(), table.sentences["text"].to_pylist(), strict=True))
    assert all(corpus[i] == text for i, text in texts.items())
    layers = [0, 1, 2]
    reader = RowReader(model, tokenizer, layers, batch_tokens=400, max_tokens=64, causal=True)
    found = reader.states(table.rows, texts)
    exact = make_model(kind).double()
    for number, row in enumerate(table.rows.to_pylist()):
        ids = tokenizer(corpus[row["sentence_id"]], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = exact(input_ids=ids, output_hidden_states=True).hidden_states
        assert ids[0, row["position"]] == row["token_id"]
        assert corpus[row["sentence_id"]][row["char_start"] : row["char_end"]] == row["token"]
        for layer in layers:
            torch.testing.assert_close(
                found[layer][number].double(), expected[layer][0, row["position"]], rtol=1e-4, atol=1e-4
            )


def test_states_do_not_depend_on_batch_size_beyond_rounding():
    model, tokenizer, corpus = make_llama(), make_tokenizer(), make_corpus()
    table = choose_rows(lambda: iter(corpus), tokenizer, RowChoice(per_token=4))
    texts = dict(zip(table.sentences["sentence_id"].to_pylist(), table.sentences["text"].to_pylist(), strict=True))
    one, many = (
        RowReader(model, tokenizer, [1, 3], batch_tokens=size, max_tokens=64, causal=True).states(table.rows, texts)
        for size in (1, 10_000)
    )
    for layer in (1, 3):
        torch.testing.assert_close(one[layer], many[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("position", "token"), [(1, "cat"), (9, "dog"), (2, "dog")])
def test_a_tokenizer_that_changed_since_the_plan_is_refused(position, token):
    tokenizer = make_tokenizer()
    reader = RowReader(make_llama(), tokenizer, [1], batch_tokens=40, max_tokens=64, causal=True)
    row = {"sentence_id": [4], "position": [position], "token_id": [tokenizer.convert_tokens_to_ids(token)]}
    rows = pa.table(row)
    assert len(reader.states(pa.table(row | {"position": [1]}), {4: token})[1]) == 1
    with pytest.raises(InputError, match="sentence 4: the tokenizer gives other tokens"):
        reader.states(rows, {4: "dog"})


def test_special_tokens_never_become_rows_and_the_caps_hold():
    tokenizer = make_tokenizer()
    corpus = ["the <image> dog", "the dog </s>", "the dog", "the cat"]
    rows = choose_rows(lambda: iter(corpus), tokenizer, RowChoice(per_token=1)).rows.to_pylist()
    assert sorted(row["token"] for row in rows) == ["cat", "dog", "the"]
    later = choose_rows(lambda: iter(corpus), tokenizer, RowChoice(first_position=2)).rows.to_pylist()
    assert min(row["position"] for row in later) == 2
    with pytest.raises(InputError, match="holds no sentence"):
        choose_rows(lambda: iter([]), tokenizer, RowChoice())
    limited = choose_rows(lambda: iter(corpus), tokenizer, RowChoice(limit=2))
    assert limited.sentences_read == 2


def test_words_that_are_left_out_are_no_rows_and_all_others_stay():
    corpus, whole = make_corpus(100), RowChoice(per_token=99)
    every, some = (
        choose_rows(lambda: iter(corpus), make_tokenizer(), choice).rows.to_pylist()
        for choice in (whole, dataclasses.replace(whole, leave_out=frozenset({"dog", "the"})))
    )
    assert [row | {"row": 0} for row in some] == [
        row | {"row": 0} for row in every if row["token"] not in ("dog", "the")
    ]
    assert len(some) < len(every)
    with pytest.raises(InputError, match="--leave-out: 'zebra' is not one token"):
        choose_rows(lambda: iter(corpus), make_tokenizer(), RowChoice(leave_out=frozenset({"dog", "zebra"})))


def test_a_fraction_is_a_hash_of_the_text():
    corpus = make_corpus(400)
    kept = [choose_rows(lambda c=c: iter(c), make_tokenizer(), RowChoice(fraction=0.3)) for c in (corpus, corpus[::-1])]
    assert set(kept[0].sentences["text"].to_pylist()) <= set(corpus)
    assert kept[0].sentences_read == kept[1].sentences_read
    assert 0.2 < kept[0].sentences_read / 400 < 0.4


def test_run_until_stops_early_and_final_is_behind_the_norm():
    model = make_llama()
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        expected = model(input_ids=ids, output_hidden_states=True).hidden_states
    ran = []
    model.model.layers[2].register_forward_hook(lambda *_: ran.append(2))
    torch.testing.assert_close(run_until(model, {"input_ids": ids}, [2])[2], expected[2])
    assert not ran
    torch.testing.assert_close(run_until(model, {"input_ids": ids}, [1, FINAL])[FINAL], expected[-1])
    for ours, theirs in zip(get_hidden_states(model, ids), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        run_until(model, {"input_ids": ids}, [4])


def test_a_bidirectional_model_is_found_out():
    assert is_causal(make_llama(), range(5, 13))
    torch.manual_seed(0)
    bert = AutoModelForCausalLM.from_config(BertConfig(**SMALL)).eval()
    assert not is_causal(bert, range(5, 13))


def test_layers_are_never_clamped():
    assert resolve_layers("paper", 32, visual=False) == (1, 2, 4, 8, 16, 24, 30, 31)
    assert resolve_layers("paper", 28, visual=True) == (0, 1, 2, 4, 8, 16, 24, 26, 27)
    assert resolve_layers("0,-1, 3", 6, visual=True) == (0, 3, 5)
    assert resolve_layers("all", 3, visual=True) == (0, 1, 2)
    assert resolve_layers("0,final", 6, visual=True) == resolve_layers("6,0", 6, visual=True) == (0, 6)
    with pytest.raises(InputError, match=r"layer 6 does not exist.*so layers 0 to 5 \(or -6 to -1\)$"):
        resolve_layers("6", 6, visual=False)
    for bad, message in (("7", "layers 0 to 5"), ("-7", "layers 0 to 5"), ("two", "not a layer"), ("", "not a layer")):
        with pytest.raises(InputError, match=message):
            resolve_layers(bad, 6, visual=True)


def test_an_llm_and_the_vlm_made_from_it_have_the_same_fingerprints():
    llama = make_llama()
    assert text_weights_fingerprint(llama) == text_weights_fingerprint(make_llava(llama))
    assert text_weights_fingerprint(llama) != text_weights_fingerprint(make_llama(seed=1))
    tokenizer = make_tokenizer()
    plain = tokenizer_fingerprint(tokenizer)
    tokenizer.add_tokens(["<more>"])
    assert tokenizer_fingerprint(tokenizer) == plain


@pytest.mark.parametrize(("small", "remembered"), [(0, 0), (500, 0), (0, 99), (500, 99)])
@pytest.mark.parametrize(
    "choice",
    [
        RowChoice(per_token=2, seed=4),
        RowChoice(per_token=3, fraction=0.4, sampling="first", causal=False),
        RowChoice(per_token=9, limit=50, first_position=1, max_tokens=4, as_latentlens=True),
    ],
)
def test_rows_do_not_depend_on_which_pass_finds_characters_nor_on_repeated_sentences(
    monkeypatch, choice, small, remembered
):
    monkeypatch.setattr(context_table, "SENTENCES_A_BATCH", 30)
    corpus = make_corpus(400)
    once = choose_rows(lambda: iter(corpus), make_tokenizer(), choice)
    monkeypatch.setattr(context_table, "SMALL", small)
    monkeypatch.setattr(context_table, "REMEMBERED", remembered)
    again = choose_rows(lambda: iter(corpus), make_tokenizer(), choice)
    assert len(once.rows) > 40
    assert once == again
    longer = choose_rows(lambda: iter(corpus * 2), make_tokenizer(), choice)
    assert (longer.rows, longer.sentences) == (once.rows, once.sentences)
    if choice.limit is None:
        assert longer.contexts_seen == 2 * once.contexts_seen


def test_a_sentence_is_tokenised_once_until_it_is_forgotten(monkeypatch):
    monkeypatch.setattr(context_table, "SENTENCES_A_BATCH", 30)
    tokenised: list[str] = []

    def tokenize_with_spans(texts, *rest):
        tokenised.extend(texts)
        return tokenization.tokenize_with_spans(texts, *rest)

    monkeypatch.setattr(context_table, "tokenize_with_spans", tokenize_with_spans)
    corpus = make_corpus(400)
    table = choose_rows(lambda: iter(corpus * 3), make_tokenizer(), RowChoice(per_token=2))
    assert sorted(tokenised) == sorted(set(corpus))
    assert table.sentences_read == 1200
