"""Words by character offsets."""

from __future__ import annotations

import pytest

from lenscore.models.loading import Vlm
from lenscore.readings.words import sentence_with_mark, token_texts, whole_word


@pytest.mark.parametrize(
    ("text", "token", "word"),
    [
        ("a red car", " red", "red"),
        ("two skateboarders", "board", "skateboarders"),
        ("the dog's bone", "dog", "dog's"),
        ("a well-known man", "known", "well-known"),
        ("stop - now", "-", "-"),
        ("at noon.", ".", "."),
        ("noon.", "noon", "noon"),
        ("un café noir", "caf", "café"),
        ("白い猫がいる", "猫", "猫"),
        ("a  b", "  ", ""),
        ("'quoted'", "quoted", "quoted"),
    ],
)
def test_whole_word(text: str, token: str, word: str) -> None:
    start = text.index(token)
    assert whole_word(text, start, start + len(token)) == word


def test_the_offsets_decide_not_the_first_match() -> None:
    text = "a cat in a catalogue"
    start = text.rindex("cat")
    assert whole_word(text, start, start + 3) == "catalogue"
    assert sentence_with_mark(text, start, start + 3) == "a cat in a [catalogue]"


def test_offsets_outside_the_text_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        whole_word("abc", 2, 5)


def test_token_texts_leave_unknown_ids_empty(tiny_vlm: Vlm) -> None:
    texts = token_texts(tiny_vlm.tokenizer, 40)
    assert (texts[4], texts[5], texts[12], texts[39]) == ("<image>", "a", "dog", "")
    assert len(texts) == 40
