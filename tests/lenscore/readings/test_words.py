"""Words by character offsets."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lenscore.contexts.tokenization import character_spans
from lenscore.models.loading import Vlm
from lenscore.readings.image_reading import Word
from lenscore.readings.words import sentence_with_mark, token_texts, whole_word
from lenscore.viewer.words_of_ids import word_in_sentence


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


def words_of(tokenizer: Tokenizer, text: str) -> list[Word]:
    """Each token of a text as it is shown, from its decoded text and its offsets."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    ids = fast(text)["input_ids"]
    spans = character_spans([text], [np.arange(len(ids))], fast, 99).tolist()
    return [word_in_sentence(fast.decode([i]), text, *span) for i, span in zip(ids, spans, strict=True)]


def test_a_fragment_of_a_character_is_shown_as_the_character() -> None:
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = words_of(tokenizer, "a 猫 é")
    assert [word.token for word in words] == ["a", " ", *["猫"] * 3, " ", *["é"] * 2]
    assert [word.text for word in words] == ["a", " ", *["猫"] * 3, " ", *["é"] * 2]
    # A character of the text itself that looks like a fragment, and offsets that say nothing.
    assert word_in_sentence("\ufffd", "a \ufffd b", 2, 3).token == "\ufffd"
    assert word_in_sentence("\ufffd", "a", 1, 1).token == "\ufffd"


@pytest.mark.parametrize("composed", ["ガラス", "が", "パン", "cafés", "한국"])
def test_a_composed_character_is_shown_whole(composed: str) -> None:
    """A tokenizer that composes (NFC) gives a decomposed character the place of its base alone."""
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(["[unk]", *composed])}, unk_token="[unk]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    text = unicodedata.normalize("NFD", composed)
    words = words_of(tokenizer, text)
    unspaced = ord(composed[0]) in range(0x3040, 0x3100)
    for word, character in zip(words, composed, strict=True):
        assert unicodedata.normalize("NFC", word.text) == (character if unspaced else composed)
    assert sentence_with_mark(text, 0, 1).startswith(f"[{text if not unspaced else text[: words[0].end]}]")
    assert text[words[0].start : words[0].end] == unicodedata.normalize("NFD", composed[0]) or not unspaced
