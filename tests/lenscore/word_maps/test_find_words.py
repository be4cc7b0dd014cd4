"""find_words against brute force in float64: scores, probabilities, ranks and contextual layers of any word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import lenscore
from lenscore.index import row_ranks
from lenscore.index.contextual_index import ContextualIndex
from lenscore.lenses import LENSES, logit
from lenscore.lenses import vocabulary_lens as vocabulary
from lenscore.models.loading import Vlm, load_vlm
from lenscore.readings.word_reading import WordReading
from lenscore.word_maps.asked_words import first_tokens, says_word, tokens_of_word
from lenscore.word_maps.found_words import WORDS_SCHEMA, FoundWords
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.quantize import decode_unit
from tests.conftest import SPECIAL, WORDS, make_tokenizer
from tests.jobs.test_analyze import visual_states

LAYERS = (0, 2, 3)
ASKED = ("dog", "red car", "grass", "small")
"""Of these one has two tokens, and two have no row."""
CANDIDATES = range(len(SPECIAL), len(SPECIAL) + len(WORDS))
IDS = {word: len(SPECIAL) + place for place, word in enumerate(WORDS)}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "TOKENS_PER_BLOCK", 7)
    for module in (vocabulary, logit):
        monkeypatch.setattr(module, "QUERIES_PER_BLOCK", 5)
    monkeypatch.setattr(row_ranks, "EXACT_NUMBERS", 32 * 5)


@pytest.fixture(scope="module")
def states(tiny_vlm_folder: Path, photo: Path) -> np.ndarray:
    """float64 [layers, patches, dim], by transformers alone."""
    return np.swapaxes(visual_states(tiny_vlm_folder, photo, LAYERS), 0, 1)


@pytest.fixture
def found(tiny_vlm: Vlm, photo: Path, word_store: Path) -> FoundWords:
    return lenscore.find_words(ASKED, photo, tiny_vlm, word_store, layers=LAYERS, self_test=False)


def of(found: FoundWords, name: str) -> WordReading:
    (lens,) = (one for one in found.lenses if one.lens == name)
    return lens


def pieces(word: str) -> list[int]:
    return [IDS[part] for part in word.split()]


def unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths == 0, 1, lengths)


def assert_scores_and_ranks(lens: WordReading, place: int, word: list[int], scores: np.ndarray) -> None:
    """`scores` float64 [layers, patches, tokens]."""
    expected = scores[..., word].mean(-1)
    np.testing.assert_allclose(lens.scores[place], expected, atol=2e-5)
    ranks = 1 + (scores[..., list(CANDIDATES)] > expected[..., None] + 1e-12).sum(-1)
    assert np.array_equal(lens.ranks[place], ranks)
    assert len(np.unique(ranks)) > 5  # all over the vocabulary
    assert lens.candidates == len(CANDIDATES)


def test_the_logit_lens_scores_ranks_and_shares_are_those_of_float64(
    found: FoundWords, states: np.ndarray, tiny_vlm_folder: Path
) -> None:
    vlm = load_vlm(tiny_vlm_folder, "cpu", torch.float64)
    with torch.no_grad():
        logits = vlm.model.lm_head(vlm.decoder.norm(torch.from_numpy(states))).numpy()
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)  # of all tokens, special ones and padding too
    lens = of(found, "logit")
    assert lens.probabilities is not None
    for place, word in enumerate(ASKED):
        assert_scores_and_ranks(lens, place, pieces(word), logits)
        if len(pieces(word)) == 1:
            np.testing.assert_allclose(lens.probabilities[place], shares[..., pieces(word)[0]], rtol=1e-4)
        else:
            assert np.isnan(lens.probabilities[place]).all()


def test_the_embedding_lens_is_the_mean_of_cosines(found: FoundWords, states: np.ndarray, tiny_vlm: Vlm) -> None:
    matrix = tiny_vlm.model.get_input_embeddings().weight.detach().double().numpy()
    lens = of(found, "embedding")
    assert lens.probabilities is None
    for place, word in enumerate(ASKED):
        assert_scores_and_ranks(lens, place, pieces(word), unit(states) @ unit(matrix).T)
        mean = unit(matrix)[pieces(word)].mean(0)  # a product with the mean of the unit embeddings
        np.testing.assert_allclose(lens.scores[place], unit(states) @ mean, atol=2e-5)
    assert lens.sought == ("dog", "red + car", "grass", "small")


def test_the_latent_lens_takes_the_best_row_that_is_the_word(
    found: FoundWords, states: np.ndarray, word_store: Path
) -> None:
    store = EmbeddingStore.open(word_store)
    rows = pd.concat(pd.read_parquet(path) for path in sorted((word_store / "rows").glob("*.parquet")))
    tokens = rows.sort_values("row")["token"].str.strip().to_numpy()
    cosines = []
    for layer in store.layers:
        codes = store.read_layer(layer)
        rows_of_layer = decode_unit(codes, store.encoding, store.outlier_dims(layer)).double().numpy()
        cosines.append(unit(states) @ rows_of_layer.T)
    every = np.stack(cosines, axis=2)  # [layers, patches, contextual layers, rows]
    lens = of(found, "latent")
    assert lens.contextual_layers is not None
    assert lens.candidates == every.shape[2] * every.shape[3]
    for place, word in enumerate(ASKED):
        is_word = tokens == word
        if not is_word.any():
            assert np.isnan(lens.scores[place]).all()
            assert lens.sought[place] == ""
            continue
        best = every[..., is_word].max(-1)  # [layers, patches, contextual layers]
        np.testing.assert_allclose(lens.scores[place], best.max(-1), atol=2e-5)
        assert np.array_equal(lens.contextual_layers[place], np.array(store.layers)[best.argmax(-1)])
        float32 = every.astype(np.float32)
        ranks = 1 + (float32 > best.max(-1).astype(np.float32)[..., None, None]).sum((2, 3))
        assert np.abs(lens.ranks[place] - ranks).max() <= 1  # of states in float32 and in float64
        assert (lens.ranks[place] == ranks).mean() > 0.97
    assert found.notes == (
        f"LatentLens: 2 of 4 words left out, 'red car', 'grass': no row of {word_store} ({len(tokens)} rows a layer) "
        "is this word",
    )


def test_a_word_at_the_top_has_the_numbers_of_analyze_image(tiny_vlm: Vlm, photo: Path, word_store: Path) -> None:
    index = ContextualIndex.from_store(word_store)
    top = lenscore.analyze_image(photo, tiny_vlm, index, layers=LAYERS, top_k=20, self_test=False).to_pandas()
    words = ["dog", "red", "small"]
    found = lenscore.find_words(words, photo, tiny_vlm, index, layers=LAYERS, self_test=False).to_pandas()
    key = ["view", "row", "col", "layer", "lens", "word"]
    first = top[top["word"].isin(words)].groupby(key, as_index=False).first()  # a word has many rows
    both = found.merge(first, on=key, suffixes=("", "_top"))
    assert len(both) > 300
    assert set(both["lens"]) == {"latent", "logit", "embedding"}
    assert np.array_equal(both["rank"], both["rank_top"])
    np.testing.assert_allclose(both["score"], both["score_top"], atol=1e-5)
    np.testing.assert_allclose(both["probability"], both["probability_top"], rtol=1e-4)
    of_rows = both["lens"] == "latent"
    assert (both["contextual_layer"] == both["contextual_layer_top"])[of_rows].all()
    assert both["contextual_layer"][~of_rows].isna().all()


def test_the_table_has_a_line_for_each_word_patch_layer_and_lens(found: FoundWords, photo: Path) -> None:
    table = found.to_arrow()
    assert table.schema == WORDS_SCHEMA
    assert len(table) == 16 * 3 * (4 + 4 + 2)  # two words without a row
    frame = found.to_pandas()
    assert set(frame["image"]) == {str(photo)}
    line = frame[(frame["word"] == "small") & (frame["row"] == 2) & (frame["col"] == 1) & (frame["layer"] == 2)]
    assert line["lens"].tolist() == ["latent", "logit", "embedding"]
    patch = 2 * 4 + 1
    for _, one in line.iterrows():
        lens = of(found, one["lens"])
        assert one["score"] == lens.scores[3, 1, patch]
        assert one["rank"] == lens.ranks[3, 1, patch]
        assert one[["x0", "y0", "x1", "y1"]].tolist() == [10, 15, 20, 22.5]  # of 40 x 30 pixels
    assert repr(found).startswith(
        "FoundWords('photo.png': 'dog', 'red car', 'grass', 'small'; 16 patches, layers 0, 2, 3"
    )


def test_words_are_compared_as_reports_compare_them(tiny_vlm: Vlm, photo: Path) -> None:
    """Of any case, and whole: "dog" is no row of "hotdog"; with rows that differ between layers."""

    def metadata(sentences: list[str]) -> list[dict[str, object]]:
        return [{"token_str": " dog", "token_id": 13, "caption": text, "position": 2} for text in sentences]

    rng = np.random.default_rng(0)
    layers = {
        1: {"embeddings": torch.from_numpy(rng.normal(size=(2, 32))), "metadata": metadata(["a dog", "the DOG"])},
        2: {"embeddings": torch.from_numpy(rng.normal(size=(1, 32))), "metadata": metadata(["a dog"])},
    }
    index = ContextualIndex(layers)
    for word in ("dog", "Dog ", "DOG"):
        found = lenscore.find_words(word, photo, tiny_vlm, index, layers=[1], lenses="latent", self_test=False)
        assert found.lenses[0].sought == ("2 rows",)
        assert found.lenses[0].candidates == 3


@pytest.mark.parametrize(
    ("words", "lenses", "message"),
    [
        (["zebra"], None, r"^'zebra': the tokenizer of the model has no tokens for this word \(it reads '<unk>'\)$"),
        (["<s>"], None, r"^'<s>': the tokenizer of the model has no tokens for this word"),
        (["dog", " "], None, r"^words 'dog', '': expected each once, and at least one$"),
        (["dog", "dog"], None, r"^words 'dog', 'dog': expected each once"),
        ([], None, r"^words \(none\): expected each once"),
        (["dog", "grass"], "latent", r"^'grass': no row of .*s.zarr \(\d+ rows a layer\) is this word; expected"),
        (["dog"], "tuned-not-there", r"'tuned-not-there' is not a lens"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], lenses: str | None, message: str, tiny_vlm: Vlm, photo: Path, word_store: Path
) -> None:
    with pytest.raises(InputError, match=message) as error:
        lenscore.find_words(words, photo, tiny_vlm, word_store, lenses=lenses, self_test=False)
    assert "\n" not in str(error.value)


def test_a_lens_without_word_scores_is_refused(tiny_vlm: Vlm, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnLens:
        name, needs_store, ids = "own", False, "tokens"

        def top(self) -> None: ...

    monkeypatch.setitem(LENSES, "own", OwnLens)
    with pytest.raises(InputError, match=r"^--lenses own: this lens cannot be asked for a word; leave it out$"):
        lenscore.find_words("dog", photo, tiny_vlm, lenses="logit,own", self_test=False)


def byte_level() -> PreTrainedTokenizerFast:
    vocabulary = {**{sign: place for place, sign in enumerate("ĠabdotsB")}, "Ġb": 8, "Ġbo": 9}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "b"), ("Ġb", "o")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def sentence_piece() -> PreTrainedTokenizerFast:
    vocabulary = {**{sign: place for place, sign in enumerate("▁abdot")}, "▁b": 7}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_a_word_has_its_leading_space_where_tokens_have_one() -> None:
    for tokenizer, expected in (
        (byte_level(), ["Ġbo", "a", "t"]),
        (sentence_piece(), ["▁b", "o", "a", "t"]),
        (make_tokenizer(["a", "boat"]), ["boat"]),
    ):
        assert tokenizer.convert_ids_to_tokens(list(tokens_of_word("boat", tokenizer))) == expected
    # The space of "Ġ" + "do" is no part of the word.
    assert byte_level().convert_ids_to_tokens(list(tokens_of_word("do", byte_level()))) == ["d", "o"]


def test_tokens_with_which_a_word_begins_and_texts_that_say_it() -> None:
    for tokenizer, expected in (
        (byte_level(), {"Ġbo"}),  # without a space it has more tokens
        (make_tokenizer(["a", "boat", "boats", "Boat", "bo"]), {"boat", "boats", "Boat"}),
    ):
        assert set(tokenizer.convert_ids_to_tokens(list(first_tokens("boat", tokenizer)))) == expected
    assert says_word("Two Boats, and a sail", "boat")
    assert says_word("a hot dog.", "Hot Dogs")
    assert not says_word("a boathouse", "boat")
