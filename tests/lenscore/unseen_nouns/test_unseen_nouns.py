"""Nouns of texts, their evidence in a run, false nouns, and the calibration, each beside a plain computation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lenscore.judging.candidates import CandidateWords
from lenscore.judging.patches import readable_images
from lenscore.readings.word_reading import WordReading
from lenscore.unseen_nouns.answers import Answer, answers_of_file, captions
from lenscore.unseen_nouns.calibration import FOLDS, Calibration, cross_validated, fold_of
from lenscore.unseen_nouns.evidence import exact_evidence, kept_evidence
from lenscore.unseen_nouns.noun_lists import Nouns
from lenscore.unseen_nouns.said_nouns import NounTruth, said_nouns, swapped_nouns
from lenscore.word_maps.word_truth import NamedPart, WordTruth
from storage_layouts.errors import InputError
from tests.synthetic_run import TOP_K, make_results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def images(results):
    return {image.image_id: image for image in readable_images(results.images(), results.geometry())}


def names(nouns: Nouns, text: str) -> list[tuple[str, str]]:
    return [(noun, text[start:end]) for noun, start, end in nouns.in_text(text)]


def test_nouns_of_a_text(tmp_path):
    (tmp_path / "nouns.txt").write_text("dog, puppy\nhot dog, frankfurter\nbackpack, bag\nbag, purse\n")
    nouns = Nouns.of(str(tmp_path / "nouns.txt"))
    text = "Two Puppies, hot dogs (a hot day!), a dog; bag, hotdog bags"
    assert names(nouns, text) == [
        ("dog", "Puppies"),
        ("hot dog", "hot dogs"),
        ("dog", "dog"),
        ("bag", "bag"),
        ("bag", "bags"),
    ]
    assert names(Nouns.of("shapes"), "a crescent over Boxes") == [("moon", "crescent"), ("square", "Boxes")]
    assert names(Nouns.of("real"), "a cookie and whales") == [("cookie", "cookie"), ("whale", "whales")]
    assert names(Nouns.of("shapes"), "a square's edge, the star’s, a moon-like ring") == [
        ("square", "square"),
        ("star", "star"),
        ("ring", "ring"),
    ]
    common = Nouns.of("common")
    assert names(common, "An airplane; the airplanes are blue") == [
        ("airplane", "airplane"),
        ("airplane", "airplanes"),
    ]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        Nouns.of(str(tmp_path / "empty.txt"))


def test_a_word_of_several_nouns_stands_for_none_of_them(images):
    nouns = Nouns.of("real")
    assert names(nouns, "a fruit, a cup, a flower and a rose") == [("flower", "flower"), ("rose", "rose")]
    all_forms = [form for forms in nouns.forms.values() for form in forms]
    assert len(all_forms) == len(set(all_forms))
    assert {"apple", "apples"} <= nouns.forms["apple"]
    apple = NamedPart(frozenset({"apple", "apples", "fruit", "fruits"}), lambda boxes: boxes[:, 0])
    truth = NounTruth(WordTruth({0: [apple]}), nouns)
    assert truth.nouns_of[0] == {"apple"}


def test_names_of_several_words_are_not_read_as_one_of_them(images):
    common = Nouns.of("common")
    assert "dog" in common.forms
    assert "bear" in common.forms
    things = [["dog", "dogs"], ["hot dog", "hot dogs"], ["teddy bear"], ["dining table", "table"], ["zyzzyva qux"]]
    nouns = common.with_compounds(map(frozenset, things))
    assert names(nouns, "A hot dog, Hot Dogs, a dog") == [
        ("hot dog", "hot dog"),
        ("hot dog", "Hot Dogs"),
        ("dog", "dog"),
    ]
    assert set(nouns.forms) - set(common.forms) == {"hot dog", "teddy bear"}
    assert names(nouns, "a dining table") == [("table", "dining table")]
    assert not nouns.has_single_word("hot dog")
    assert nouns.has_single_word("dog")
    hot_dog = NamedPart(frozenset({"hot dog", "hot dogs"}), lambda boxes: boxes[:, 0])
    dog = NamedPart(frozenset({"dog", "dogs"}), lambda boxes: boxes[:, 0])
    truth = NounTruth(WordTruth({0: [hot_dog], 1: [dog]}), nouns)
    answer = Answer(0, "a hot dog", np.empty(0, np.int64), np.empty(0))
    (said,) = said_nouns([answer], nouns, truth)
    assert (said.noun, said.in_image) == ("hot dog", True)
    # A false noun can be said by a patch.
    own = Answer(1, "a dog", np.empty(0, np.int64), np.empty(0))
    assert swapped_nouns("random", said_nouns([own], nouns, truth), truth, images, 0, nouns.has_single_word) == []


def test_evidence_is_what_the_candidates_say(results, images):
    nouns = Nouns.of("shapes")
    said = {image_id: ["moon", "star", "bolt"] for image_id in images}
    words, lines = CandidateWords(results), results.results().to_pylist()
    for image_id, found in kept_evidence(results, nouns, said):
        for noun, evidence in found.items():
            for number, lens in enumerate(results.lenses):
                for at, layer in enumerate(results.layers):
                    ranks = []
                    for line in lines:
                        if (line["image_id"], line["lens"], line["layer"]) == (image_id, lens, layer):
                            folded = [word.lower() for word in words.each(lens, line["ids"])]
                            hits = [rank for rank, word in enumerate(folded, 1) if word in nouns.forms[noun]]
                            ranks += [(hits[0], (line["view"], line["row"], line["col"]))] if hits else []
                    best = min(rank for rank, _ in ranks) if ranks else 0
                    assert evidence.ranks[number, at] == best
                    assert evidence.patches[number, at] == len(ranks)
                    expected = 1 - np.log(best) / np.log(TOP_K + 1) if best else 0
                    assert evidence.strength[number, at] == pytest.approx(expected)
                    if ranks:
                        assert (best, tuple(evidence.places[number, at].tolist())) in ranks
        if image_id == 2:
            break


def test_internal_confidence_is_that_of_logit_lens():
    def read(lens: str, chances: list[float]) -> WordReading:
        probabilities = np.array(chances)[:, None, None]
        return WordReading(lens, ("", ""), 10, probabilities, np.ones((2, 1, 1), np.int64), probabilities)

    lenses = (read("tuned", [0.9, 0.9]), read("logit", [0.25, np.nan]))
    found = SimpleNamespace(words=("moon", "hot dog"), lenses=lenses, reading=SimpleNamespace(places=np.zeros((1, 3))))
    assert exact_evidence(found, {"moon", "hot dog"}, 5).probability == 0.25
    assert np.isnan(exact_evidence(found, {"hot dog"}, 5).probability)


def test_nouns_are_true_where_the_truth_knows_them(images):
    nouns, places = Nouns.of("shapes"), list(images.values())
    truth = NounTruth(WordTruth.of("shapes", places), nouns)
    answers = [Answer(0, "Here. A moon and a moon\nand no cup", np.empty(0, np.int64), np.empty(0))]
    said = said_nouns(answers, nouns, truth)
    assert [(noun.noun, noun.sentence) for noun in said] == [("moon", "A [moon] and a moon"), ("cup", "and no [cup]")]
    own = truth.nouns_of[0]
    everywhere = set().union(*truth.nouns_of.values())
    expected = [(noun in own) if noun in everywhere else None for noun in ("moon", "cup")]
    assert [noun.in_image for noun in said] == expected
    assert truth.has(0, "kitchen") is None
    texts = [Answer(image, " ".join(truth.nouns_of[image]), *[np.empty(0)] * 2) for image in images]
    said = said_nouns(texts, nouns, truth)
    assert all(noun.in_image for noun in said)
    for kind in ("random", "popular", "adversarial"):
        false = swapped_nouns(kind, said, truth, images, 0, nouns.has_single_word)
        assert false == swapped_nouns(kind, said, truth, images, 0, nouns.has_single_word)
        assert {noun.source for noun in false} == {kind}
        for image in images:
            mine = [noun.noun for noun in false if noun.image_id == image]
            assert len(mine) == len(set(mine)) == len(truth.nouns_of[image])
            assert not truth.nouns_of[image] & set(mine)
    popular = [
        noun.noun
        for noun in swapped_nouns("popular", said, truth, images, 0, nouns.has_single_word)
        if noun.image_id == 0
    ]
    others = {noun: count for noun, count in truth.images_with.items() if noun not in own}
    assert sorted(map(others.get, popular)) == sorted(others.values())[-len(popular) :]


def test_answers_of_a_file(tmp_path, images):
    first = images[0]
    table = tmp_path / "answers.jsonl"
    table.write_text(f'{{"image": "{first.path}", "text": "a star"}}\n{{"image": "other.png", "text": "a cup"}}\n')
    answers, others = answers_of_file(table, list(images.values()))
    assert [(answer.image_id, answer.text) for answer in answers] == [(first.image_id, "a star")]
    assert others == 1
    table.write_text('{"image": "other.png", "text": "a cup"}\n')
    with pytest.raises(InputError, match="has no answer about one of the 12 images"):
        answers_of_file(table, list(images.values()))


def test_captions(results):
    assert [answer.image_id for answer in captions(results)] == [1, 3, 5, 7, 9, 11]


def test_the_probability_of_a_word_is_that_of_its_tokens():
    answer = Answer(0, "a toadstool", np.array([1, 6, 11]), np.array([0.5, 0.25, 0.5]))
    assert answer.probability(2, 11) == 0.125
    assert np.isnan(Answer(0, "a toadstool", np.empty(0, np.int64), np.empty(0)).probability(2, 11))


def test_the_calibration_is_a_logistic_regression():
    rng = np.random.default_rng(0)
    evidence = rng.random((200, 3))
    absent = rng.random(200) < 1 / (1 + np.exp(-(2 - evidence @ [3.0, 1.0, 2.0])))
    fitted = Calibration.fit(["a", "b", "c"], evidence, absent)
    expected = LogisticRegression(C=1, tol=1e-10, max_iter=1000).fit(-evidence, absent)
    assert (expected.coef_ > 0).all()
    assert fitted.weights == pytest.approx(expected.coef_[0], abs=1e-4)
    assert fitted.probabilities(evidence) == pytest.approx(expected.predict_proba(-evidence)[:, 1], abs=1e-4)
    # Evidence that speaks for a missing noun has no weight; without it the others are fitted.
    against = np.concatenate([evidence, absent[:, None] + 0.1 * rng.random((200, 1))], axis=1)
    bounded = Calibration.fit(["a", "b", "c", "d"], against, absent)
    assert bounded.weights[3] == 0
    assert bounded.weights[:3] == pytest.approx(fitted.weights, abs=1e-4)


def test_no_noun_is_scored_by_a_calibration_on_its_image():
    rng = np.random.default_rng(1)
    evidence, absent = rng.random((60, 2)), rng.random(60) < 0.5
    folds = np.array([fold_of(f"image {number // 4}") for number in range(60)])
    assert set(folds) == set(range(FOLDS))
    known = rng.random(60) < 0.8
    found = cross_validated(["a", "b"], evidence, absent, folds, known)
    assert not np.isnan(found).any()
    for fold in range(FOLDS):
        mine = folds == fold
        # Other labels on its own images change nothing of a noun's probability, nor do those that are not known.
        changed = np.where(mine | ~known, ~absent, absent)
        assert (cross_validated(["a", "b"], evidence, changed, folds, known)[mine] == found[mine]).all()
    assert np.isnan(cross_validated(["a", "b"], evidence, np.ones(60, bool), folds, known)).all()
