"""The library's names, used as in a notebook."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

import lenscore
from storage_layouts.errors import InputError
from tests.conftest import WORDS, make_llama, make_tokenizer


def test_build_index_finds_each_row_as_its_own_neighbour():
    corpus = [f"{a} {b} {c}" for a in WORDS[:5] for b in WORDS[5:9] for c in WORDS[9:12]]
    model, tokenizer = make_llama(), make_tokenizer()
    index = lenscore.build_index("a random llama", corpus, layers=[1, 3], model=model, tokenizer=tokenizer)
    assert index.available_layers == [1, 3]
    assert index.hidden_dim == 32
    ids = tokenizer(corpus[7], return_tensors="pt")["input_ids"]
    states = lenscore.get_hidden_states(model, ids)
    (found,) = index.search(states[3][0, 3:4], top_k=1, layers=[3])
    assert found[0].caption == corpus[7]
    assert (found[0].position, found[0].token_id, found[0].contextual_layer) == (3, int(ids[0, 3]), 3)
    assert abs(found[0].similarity - 1) < 1e-3


def test_the_cap_takes_the_first_contexts_from_position_two_on():
    corpus = ["the dog cat", "a dog cat", "red dog cat", "the dog tree"]
    index = lenscore.build_index(
        "llama", corpus, layers=[1], max_contexts_per_token=2, model=make_llama(), tokenizer=make_tokenizer()
    )
    assert len(index) == 2 + 2 + 1  # dog twice (position 2), cat twice, tree once
    everything = index.search(torch.randn(1, 32), top_k=5)[0]
    assert {(n.token_str, n.caption) for n in everything} == {
        ("dog", "the dog cat"),
        ("dog", "a dog cat"),
        ("cat", "the dog cat"),
        ("cat", "a dog cat"),
        ("tree", "the dog tree"),
    }


def test_a_model_without_a_final_norm_gives_its_own_last_state():
    torch.manual_seed(0)
    size = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = BertModel(BertConfig(**size, intermediate_size=64)).eval()
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    expected = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    states = lenscore.get_hidden_states(model, ids, mask)
    assert len(states) == 3
    assert all(torch.equal(a, b) for a, b in zip(states, expected, strict=True))


def test_layers_that_are_not_there_and_negative_ones_are_refused():
    for layer in (5, -1):
        with pytest.raises(
            InputError, match=rf"layer {layer} does not exist; the model has 4 blocks, so layers 0 to 3"
        ):
            lenscore.build_index("x", ["a dog cat"], [1, layer], model=make_llama(), tokenizer=make_tokenizer())


def test_an_entry_that_is_added_to_the_table_of_models_counts(monkeypatch):
    assert lenscore.SUPPORTED_MODELS is lenscore.MODEL_DEFAULTS
    assert lenscore.SUPPORTED_MODELS["Qwen/Qwen2-7B"]["num_hidden_layers"] == 28

    def layers_of(entry):
        monkeypatch.setitem(lenscore.SUPPORTED_MODELS, "x", entry)
        return lenscore.build_index("x", ["a dog cat"], model=make_llama(), tokenizer=make_tokenizer()).available_layers

    assert layers_of({"num_hidden_layers": 4, "hidden_size": 32, "default_layers": [3, 2]}) == [2, 3]
    for entry in ([1, 2], {"hidden_size": 32}, {"default_layers": ["2"]}, {"default_layers": []}):
        with pytest.raises(
            InputError, match=r"^SUPPORTED_MODELS\['x'\]: found .*, expected a dict in which default_layers"
        ):
            layers_of(entry)


def test_what_is_missing_is_a_missing_file_also_for_a_script_written_for_latentlens(tmp_path):
    index = lenscore.build_index("x", ["a dog cat"], [1, 2], model=make_llama(), tokenizer=make_tokenizer())
    index.save(tmp_path / "cache")
    for read in (
        lambda: lenscore.ContextualIndex.from_directory(tmp_path / "gone"),
        lambda: lenscore.ContextualIndex.from_directory(tmp_path),
        lambda: lenscore.ContextualIndex.from_directory(tmp_path / "cache", layers=[7]),
        lambda: lenscore.load_corpus(tmp_path / "gone.txt"),
        lambda: lenscore.load_corpus(tmp_path / "gone.csv"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            read()
        assert isinstance(caught.value, InputError)
        assert str(tmp_path) in str(caught.value)


def test_the_rows_of_an_index_can_be_listed():
    index = lenscore.build_index("x", ["a dog cat"], [1, 2], model=make_llama(), tokenizer=make_tokenizer())
    assert [[row.pop("token_id") > 0, row] for row in index.metadata(2)] == [
        [True, {"token_str": token, "caption": "a dog cat", "position": at}] for at, token in ((2, "dog"), (3, "cat"))
    ]
    with pytest.raises(InputError, match="no contextual layer 3; expected some of 1, 2"):
        index.metadata(3)


def test_an_index_can_be_kept_small():
    corpus, units = [f"{a} {b} {c}" for a in WORDS[:5] for b in WORDS[5:9] for c in WORDS[9:12]], {}
    model, tokenizer = make_llama(), make_tokenizer()
    for encoding in ("float32", "float8_e4m3fn"):
        index = lenscore.build_index("x", corpus, [2], model=model, tokenizer=tokenizer, encoding=encoding)
        units[encoding] = torch.cat(list(index.blocks(2)))
        assert index.search(units[encoding][7], 1)[0][0].similarity > 0.99
    assert torch.nn.functional.cosine_similarity(*units.values()).min() > 0.995


def test_every_promised_name_is_there():
    from lenscore.extract import build_index, load_corpus
    from lenscore.models.hidden_states import get_hidden_states

    assert (build_index, load_corpus) == (lenscore.build_index, lenscore.load_corpus)
    assert get_hidden_states is lenscore.get_hidden_states
    for name in lenscore.__all__:
        assert getattr(lenscore, name) is not None
    assert lenscore.auto_layers(32) == [1, 2, 4, 8, 16, 24, 30, 31]
