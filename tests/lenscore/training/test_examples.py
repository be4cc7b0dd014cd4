"""Texts that no model can learn from are refused before a training begins, and what is cut is counted."""

from __future__ import annotations

import pytest

from lenscore.training.examples import Examples, TextRules
from lenscore.training.pairs import Pair
from lenscore.user_files.notes import Notes
from storage_layouts.errors import InputError
from tests.conftest import make_tokenizer

VISUAL = 16


def examples(prompt: str = "there is", **rules) -> Examples:
    return Examples(make_tokenizer(), "<image>", VISUAL, TextRules(prompt, **rules))


def pair(caption: str, prompt: str = "", name: str = "photos/a.png") -> Pair:
    return Pair(name, 0, 10, prompt, caption)


def checked(found: Examples, *pairs: Pair, positions: int | None = 64) -> list[str]:
    notes = Notes()
    found.require_room(pairs, positions, notes)
    return notes.lines()


def test_an_image_is_as_many_tokens_as_if_the_tokenizer_had_read_them():
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, False)
    found = Examples(tokenizer, "<image>", VISUAL, TextRules())
    for prompt in ("", "there is", "a dog ."):
        ids, labels = found.row(pair("a red house", prompt))
        said = tokenizer(" a red house", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        assert ids == tokenizer(("<image>" * VISUAL + " " + prompt).rstrip())["input_ids"] + said
        assert labels == [-100] * (len(ids) - len(said)) + said


# Begin, image and a prompt of two words.
GIVEN = 1 + VISUAL + 2


@pytest.mark.parametrize("most", [1, 10, GIVEN - 1, GIVEN])
def test_image_and_prompt_leave_room_for_a_caption(most):
    message = rf"photos/a.png \('a red dog'\): image and prompt have 19 tokens \(16 .*--max-tokens is {most}; expected"
    with pytest.raises(InputError, match=message):
        checked(examples(max_tokens=most), pair("a red dog"))


def test_captions_that_are_cut_are_counted():
    long, short = pair("a red house . a dog . a tree"), pair("a dog")
    assert checked(examples(), long, short) == []
    assert checked(examples(max_tokens=GIVEN + 4), long, short, long) == [
        "captions cut at --max-tokens 23: 2 (a.png 2)"
    ]
    assert checked(examples(max_tokens=GIVEN + 4, first_sentence=True), long) == [
        "captions cut at --max-tokens 23: 1 (a.png 1)"
    ]
    assert checked(examples(max_tokens=GIVEN + 5, first_sentence=True), long) == []
    ids, labels = examples(max_tokens=GIVEN + 4).row(long)
    assert len(ids) == GIVEN + 4
    assert [label != -100 for label in labels] == [False] * GIVEN + [True] * 4


def test_no_example_is_longer_than_the_language_model_takes():
    long = pair("a red house . a dog . a tree")  # 9 words and the end
    assert checked(examples(), long, positions=GIVEN + 10) == []
    with pytest.raises(InputError, match=r"have 29 tokens, but the language model takes 28; --max-tokens 28 cuts such"):
        checked(examples(), long, positions=GIVEN + 9)
    assert checked(examples(max_tokens=28), long, positions=28) == ["captions cut at --max-tokens 28: 1 (a.png 1)"]
    with pytest.raises(InputError, match=r"image and prompt have 19 tokens .*but the language model takes 19"):
        checked(examples(), long, positions=GIVEN)
    assert checked(examples(), long, positions=None) == []


@pytest.mark.parametrize(("caption", "prompt"), [("<image> a dog", ""), ("a dog", "look at <image>")])
def test_texts_with_an_image_token_are_refused(caption, prompt):
    with pytest.raises(InputError, match=r"photos/a.png .*its text holds '<image>', which stands for the image"):
        checked(examples(), pair("a house"), pair(caption, prompt))
