"""New sentences for found words: what is true of them, their words, and rows that are searched as in a store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch

from jobs.extract_job import ExtractJob
from lenscore import shapes
from lenscore.contexts import joined_tables
from lenscore.contexts.corpus import read_corpus
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.row_words import RowWord
from lenscore.index.topk import TopK
from lenscore.judging.patches import ImagePatches, PatchRef
from lenscore.models.loading import LanguageModel, load_model
from lenscore.shapes.scenes import SceneObject
from lenscore.sharpening.generated_sentences import GeneratedSource, HashSampling
from lenscore.sharpening.growing_search import GrowingSearch, StoreExtension, search_store
from lenscore.sharpening.inverted_index import InvertedIndex
from lenscore.sharpening.new_sentences import (
    CorpusSource,
    Request,
    TemplateSource,
    checked_templates,
    collect,
    drawn,
)
from lenscore.sharpening.patch_words import PatchWords, found_word, phrase_of, words_of_patches
from lenscore.sharpening.sharpening_measures import Measured, OverImages, found_corpora
from lenscore.sharpening.sharpening_rounds import Searched
from lenscore.sharpening.true_attributes import FileAttributes, ShapesAttributes, TrueAttributes, object_attributes
from lenscore.word_maps.word_truth import NamedPart, WordTruth
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError, InputError
from tests.conftest import WORDS
from tests.jobs.test_analyze import complete

RED_CIRCLE = SceneObject("circle", "red", "dotted", "large", left=10, top=2, side=40, phase=0)  # top, left to centre


OTHER_FIELDS = ("{0.x} {1}", "{0[a]} {1}", "{0} {1} {0.__class__}", "{0!r} {1}", "{0:>9} {1}", "{} {}", "{0} {1} {}")


def row(sentence: str, word: str) -> RowWord:
    """The last occurrence of a word in a sentence."""
    start = sentence.rindex(word)
    return RowWord(word, sentence, 0, 0, start, start + len(word))


@pytest.mark.parametrize(
    ("sentence", "is_specific", "is_exact"),
    [
        ("a red circle", True, True),
        ("a Crimson spotted thing", True, True),  # synonyms, no noun
        ("a circle", False, False),
        ("a blue circle", False, False),
        ("a red square and a blue circle", True, False),  # true in all, but of two things
        ("circle circles disc", False, False),  # one attribute
        ("a red-hot circle", False, False),  # another word
        ("in the top left: a circle", True, True),
        ("in the top right: a circle", False, False),
        ("a red circle top right", True, True),  # a wrong place is not false
        ("top, or left of the circle, a red", True, True),
        ("", False, False),
    ],
)
def test_sentences_about_a_red_circle(sentence, is_specific, is_exact):
    truth = object_attributes(RED_CIRCLE)
    assert truth.is_specific(sentence) == is_specific
    assert truth.is_exact(sentence) == is_exact


def test_words_about_a_red_circle():
    truth = object_attributes(RED_CIRCLE)
    assert truth.has_noun(["a", "Discs"])
    assert not truth.has_noun(["red", "square"])
    assert truth.is_own("RED")
    assert not truth.is_own("blue")
    middle = object_attributes(SceneObject("circle", "red", "dotted", "large", left=28, top=28, side=40, phase=0))
    assert middle.own[-1] == frozenset()


def test_shapes_know_the_object_under_a_patch(tmp_path):
    shapes.write_images(tmp_path, "test", 3)
    for number, path in enumerate(sorted(tmp_path.glob("*.png"))):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        boxes = [(c / 8, r / 8, (c + 1) / 8, (r + 1) / 8) for r in range(8) for c in range(8)]
        places = tuple(PatchRef(number, sha256, 0, i // 8, i % 8, box) for i, box in enumerate(boxes))
        image = ImagePatches(number, str(path), sha256, places, 96, 96)
        truth, scene = ShapesAttributes(), shapes.read_scene(path)
        chosen = truth.qualifying(image)
        assert chosen
        for place in chosen:
            aspects = shapes.patch_truth(scene, place.box).aspects
            assert truth.of(image, place).own[:4] == tuple(aspects[n] for n in ("noun", "colour", "texture", "size"))


def test_a_file_knows_nouns_of_a_scene():
    def left(boxes):
        return (boxes[:, 0] < 0.5).astype(float)

    dog, boat = frozenset({"dog", "dogs", "puppy"}), frozenset({"boat", "boats"})
    parts = {
        7: [
            NamedPart(dog, left),
            NamedPart(boat, lambda boxes: 1 - left(boxes)),
            NamedPart(boat, lambda b: 0 * b[:, 0]),
        ]
    }
    truth = FileAttributes(WordTruth(parts | {8: [NamedPart(frozenset({"hot dog", "cat"}), left)]}), 0.5)
    places = tuple(PatchRef(7, "", 0, 0, col, (col / 2, 0, (col + 1) / 2, 1)) for col in range(2))
    image = ImagePatches(7, "", "", places)
    assert truth.qualifying(image) == list(places)
    of_dog = truth.of(image, places[0])
    assert of_dog == TrueAttributes((dog,), (boat,), frozenset({"hot dog", "cat"}))
    assert of_dog.is_exact("a puppy in a boat")
    assert not of_dog.is_specific("two boats and a canoe")  # nothing of the dog
    assert not of_dog.is_specific("a dog, another puppy")
    assert of_dog.is_specific("dog, cat, boat")
    assert not of_dog.is_exact("dog, cat, boat")
    assert not of_dog.is_exact("a dog eats a hot dog in a boat")


def test_phrases_end_at_the_found_word():
    text = "A green square; one large, well-worn dotted RED circle. Blue stars"
    assert phrase_of(row(text, "circle")) == "well-worn dotted RED circle"
    assert phrase_of(row(text, "one")) == "one"
    assert phrase_of(row(text, "square")) == "A green square"
    assert phrase_of(row(text, "Blue")) == "Blue"
    assert found_word(row(text, "RED")) == "red"
    assert found_word(row(text, "rcl")) == "circle"
    assert found_word(row(text, ";")) == ""


def test_words_of_a_patch_are_those_that_others_do_not_have():
    one = [row("a red circle", "circle"), row("a red disc", "disc"), row("a red", "red"), row("a .", ".")]
    other = [row("a blue star", "star"), row("a star", "star")]
    first, second, third = words_of_patches([one, other, [row("...", ".")]])
    # red: three candidates, of one patch of three; a: four candidates of two patches.
    assert list(first.words) == ["red", "a", "circle", "disc"]
    assert first.words["red"] == pytest.approx(3 * np.log(4 / 1))
    assert first.words["a"] == pytest.approx(3 * np.log(4 / 2))
    assert set(first.found) == {"red", "circle", "disc"}
    assert list(second.words) == ["star", "a", "blue"]
    assert list(second.found) == ["star"]
    assert not third.words


def test_templates_pair_a_found_word_with_another():
    words = PatchWords({"red": 3.0, "circle": 1.0, "a": 1e-9}, {"circle": 1.0})
    source = TemplateSource(["{0} {1}", "the {0} {1}"])
    requests = [Request(f"{turn}", words) for turn in range(200)]
    made = source.sentences(requests, ())
    assert set(made) == {"red circle", "the red circle"}
    assert made == TemplateSource(["{0} {1}", "the {0} {1}"]).sentences(requests, ())
    assert source.sentences([Request("x", PatchWords({"red": 1.0}, {"red": 1.0}))], ())[0].endswith("red red")
    counts = pd.Series([drawn(f"{n}", {"a": 1.0, "b": 3.0}) for n in range(2000)]).value_counts()
    assert counts["b"] == pytest.approx(1500, abs=80)
    for bad in ("a {0}", "{0} {1} {2}", "{0} {1} {", "{word} {0} {1}", *OTHER_FIELDS):
        with pytest.raises(InputError, match="--templates: found"):
            checked_templates([bad])


def test_a_corpus_gives_sentences_with_most_of_the_words():
    texts = ["a red circle", "a large red circle", "red", "a blue circle", "a circle that is RED", "a red circle"]
    index = InvertedIndex(texts, seed=0)
    words = {"red": 1.0, "circle": 1.0, "large": 1.0, "none": 1.0}
    assert next(index.holding(list(words))) == "a large red circle"
    assert sorted(index.holding(list(words))) == ["a circle that is RED", "a large red circle", "a red circle"]
    assert sorted(index.at_random()) == sorted(set(texts))
    assert list(InvertedIndex(texts[::-1], 0).at_random()) == list(index.at_random())
    source = CorpusSource(index)
    requests = [Request(f"{n}", PatchWords(words, words)) for n in range(4)]
    made = source.sentences(requests, {"a red circle"})
    assert made == ["a large red circle", "a circle that is RED", "", ""]


def test_sentences_are_collected_until_there_are_enough():
    asked: list[int] = []

    class Source:
        def sentences(self, requests, used):
            return [request.name for request in requests]

    def requests(turn: int) -> list[Request]:
        asked.append(turn)
        words = PatchWords({}, {})
        return [Request("again", words), Request("known", words), Request(f"{turn}", words), Request("", words)]

    assert collect(Source(), requests, 2, {"known"}) == ["again", "0", "1"]
    assert collect(Source(), requests, 9, {"known"}, wanted=3) == ["again", "0", "1"]
    assert asked == [0, 1, 0, 1]
    assert collect(Source(), requests, 2, {"known"}, wanted=9) == ["again", "0", "1"]


def test_sampling_follows_the_softmax_and_the_name_alone():
    scores = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]]).expand(3000, 4)
    ids = torch.zeros(3000, 5, dtype=torch.int64)
    names = [f"n{i}" for i in range(3000)]
    chosen = HashSampling(names, 5)(ids, scores).argmax(dim=1)
    shares = torch.bincount(chosen, minlength=4) / 3000
    np.testing.assert_allclose(shares, torch.softmax(scores[0], 0), atol=0.03)
    assert (HashSampling(names[7:9], 5)(ids[:2], scores[:2]).argmax(dim=1) == chosen[7:9]).all()
    assert (HashSampling(names, 4)(ids, scores).argmax(dim=1) != chosen).any()  # the next token


@pytest.fixture(scope="module")
def llm(tiny_llm_folder):
    return LanguageModel("tiny", *load_model(tiny_llm_folder, "cpu"))


def test_generated_sentences_begin_with_their_template(llm):
    words = PatchWords({"red": 1.0, "car": 1.0}, {"car": 1.0})
    source = GeneratedSource(llm, TemplateSource(["the {0} {1}", "{0} {1}"]), 6)
    requests = [Request(f"{turn}", words) for turn in range(12)]
    made = source.sentences(requests, ())
    assert all(text.startswith(("the red car", "red car")) for text in made)
    assert len(set(made)) > 6
    assert {word for text in made for word in text.split()} <= set(WORDS)
    assert source.sentences(requests, ()) == made
    # Of one length alone: the others of a batch do not matter.
    assert [source.sentences([request], ())[0] for request in requests] == made


def corpus_of(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return list(dict.fromkeys(" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(count)))


def made_store(model, folder, texts: Sequence[str], name: str, **more) -> EmbeddingStore:
    file = folder / f"{name}.txt"
    file.write_text("\n".join(texts))
    complete(ExtractJob(str(model), (file,), folder / f"{name}.zarr", layers="1,3", **more))
    return EmbeddingStore.open(folder / f"{name}.zarr")


@pytest.mark.parametrize("positions", ["all", "from-2"])
def test_a_grown_search_is_that_of_one_store_of_all_sentences(tmp_path, tiny_llm_folder, llm, positions, monkeypatch):
    """In float32, where codes do not depend on the outlier dimensions that were chosen from other rows."""
    monkeypatch.setattr(joined_tables, "SENTENCES_A_BATCH", 7)
    old, new = corpus_of(40, 0), corpus_of(30, 1)
    settings = {"per_token": 10_000, "encoding": "float32", "positions": positions}
    store = made_store(tiny_llm_folder, tmp_path, old, "old", **settings)
    whole = ContextualIndex.from_store(made_store(tiny_llm_folder, tmp_path, [*old, *new], "whole", **settings))
    queries = torch.from_numpy(np.random.default_rng(2).normal(size=(50, 32)))
    extension = StoreExtension(store, (1, 3), llm)
    steps = [search_store(extension, ContextualIndex.from_store(store), queries, 7)]
    search = GrowingSearch(extension, queries, steps)
    assert list(search.add([*new[:10], old[3], new[4]])) == [*new[:10], old[3], new[4]]
    search = GrowingSearch(extension, queries, [*steps, search.step(new[:10])])
    search.add(new[10:])
    assert search.add([old[0], new[0]])  # no row of them is new
    assert store.rows + search.rows == whole.rows(1)
    expected = whole.search(queries, 7)
    described = search.describe()
    ids, scores, layers = (part.tolist() for part in search.top)
    for query, neighbours in enumerate(expected):
        np.testing.assert_allclose(scores[query], [one.similarity for one in neighbours], atol=1e-6)
        of_one = {(one.token_str, one.contextual_layer, round(one.similarity, 5)) for one in neighbours[:-1]}
        mine = zip(ids[query], layers[query], scores[query], strict=True)
        assert of_one <= {(described[row].token, layer, round(score, 5)) for row, layer, score in mine}
    assert any(row >= store.rows for rows in ids for row in rows)


@pytest.mark.parametrize(
    ("setting", "found"),
    [("max_tokens", "512"), ("max_tokens", -1), ("leave_out", ["a"]), ("causal", "no"), ("max_tokens", 10**9)],
)
def test_a_store_of_others_may_hold_any_settings(tmp_path, tiny_llm_folder, llm, setting, found):
    store = made_store(tiny_llm_folder, tmp_path, corpus_of(20, 0), "theirs")
    store.run.config[setting] = found
    with pytest.raises((CorruptError, InputError), match=rf"{setting} = |up to {10**9} tokens"):
        StoreExtension(store, (1, 3), llm)


def test_rows_can_be_limited(tmp_path, tiny_llm_folder, llm):
    store = made_store(tiny_llm_folder, tmp_path, corpus_of(20, 0), "small")
    queries = torch.from_numpy(np.random.default_rng(2).normal(size=(5, 32)))
    extension = StoreExtension(store, (1, 3), llm)
    base = [search_store(extension, ContextualIndex.from_store(store), queries, 3)]
    new = corpus_of(30, 1)
    for most in (1, 7, 20):
        search = GrowingSearch(extension, queries, base)
        needed = search.add(new, most)
        assert search.rows == most
        assert 0 < len(needed) < len(new)
        all_of = GrowingSearch(extension, queries, base)
        all_of.add(needed)
        before = GrowingSearch(extension, queries, base)
        before.add(needed[:-1])
        assert before.rows < most <= all_of.rows
    assert not GrowingSearch(extension, queries, base).add(new, 0)


def test_any_sentence_comes_back_from_the_corpus_of_found_ones(tmp_path):
    texts = ["=a red circle", 'one "line"\nand another', "ein grüner Würfel, rot", "-1"]
    rounds = [
        Measured(Searched(source, kind, number, new, 0, 0, TopK(*[torch.empty(0)] * 3), {}, 0), {})
        for source, kind, number, new in [
            ("", "found", 0, []),
            ("corpus", "found", 1, texts[:3]),
            ("corpus", "random-rows", 1, ["a control"]),
            ("corpus", "found", 2, texts[3:]),
        ]
    ]
    ((source, data),) = found_corpora(rounds).items()
    assert source == "corpus"
    (tmp_path / "found.jsonl").write_bytes(data)
    assert list(read_corpus([tmp_path / "found.jsonl"])) == texts


def test_intervals_come_from_whole_images():
    places = [PatchRef(i // 4, f"image {i // 4}", 0, 0, i % 4, (0, 0, 1, 1)) for i in range(40)]
    over_images = OverImages(places)
    same_in_image = np.repeat([0.0, 1.0] * 5, 4)
    value, low, high = over_images.mean(same_in_image)
    assert value == 0.5
    # Ten images, not forty patches: the standard error is sqrt(0.25 / 10).
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 10), rel=0.15)
    assert over_images.mean(np.ones(40)) == (1, 1, 1)
    alone = OverImages(places[:4]).mean(np.ones(4))
    assert alone[0] == 1
    assert np.isnan(alone[1:]).all()


def test_sentences_without_a_row_are_no_error(tmp_path, tiny_llm_folder, llm):
    """A store from position 2 on has none of a sentence of one word."""
    store = made_store(tiny_llm_folder, tmp_path, corpus_of(20, 0), "later", positions="from-2")
    queries = torch.from_numpy(np.random.default_rng(2).normal(size=(5, 32)))
    extension = StoreExtension(store, (1, 3), llm)
    step = search_store(extension, ContextualIndex.from_store(store), queries, 3)
    search = GrowingSearch(extension, queries, [step])
    assert search.add(WORDS[:2], 5) == WORDS[:2]
    assert search.rows == 0
