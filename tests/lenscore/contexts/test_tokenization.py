"""Bulk tokenising against the tokenizer's own call."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from benchmarks import phrases
from lenscore.contexts.tokenization import character_spans, tokenize
from tests.conftest import WORDS, make_tokenizer

WORD_LEVEL = make_tokenizer()
BYTE_LEVEL = phrases.make_tokenizer(["red", "dog", "the"])
texts = st.lists(st.lists(st.sampled_from([*WORDS, "dög", "</s>", "  ", "犬", "<image>"]), max_size=9).map(" ".join))


class WithPythonSide(PreTrainedTokenizerFast):
    """Overrides a method, as tokenizers of remote code do."""

    def _encode_plus(self, text, *args, **kwargs):
        return super()._encode_plus([t.lower() for t in text], *args, **kwargs)


@settings(max_examples=100, deadline=None)
@given(texts, st.sampled_from([WORD_LEVEL, BYTE_LEVEL]), st.sampled_from([3, 512]))
def test_the_backend_says_what_the_tokenizer_says(texts, tokenizer, max_tokens):
    ids = tokenize(texts, tokenizer, max_tokens)
    positions = [np.arange(len(tokens)) for tokens in ids]
    spans = character_spans(texts, positions, tokenizer, max_tokens)
    if not texts:
        assert ids == []
        assert spans.shape == (0, 2)
        return
    expected = tokenizer(texts, truncation=True, max_length=max_tokens, return_offsets_mapping=True)
    assert ids == expected["input_ids"]
    assert spans.tolist() == [list(span) for offsets in expected["offset_mapping"] for span in offsets]


def test_padding_and_truncation_of_an_earlier_call_do_not_stick():
    tokenizer = make_tokenizer()
    tokenizer(["the dog", "the"], padding=True, truncation=True, max_length=2)
    assert tokenize(["the red dog", "the"], tokenizer, 512) == [[1, 6, 7, 12], [1, 6]]
    assert tokenize(["the red dog", "the"], tokenizer, 3) == [[1, 6, 7], [1, 6]]


def test_a_tokenizer_with_a_python_side_is_called_as_usual():
    plain = make_tokenizer()
    tokenizer = WithPythonSide(tokenizer_object=plain.backend_tokenizer, unk_token="<unk>")
    assert tokenize(["THE Dog"], tokenizer, 512) == tokenize(["the dog"], plain, 512)
    spans = character_spans(["THE Dog"], [np.array([2, 1])], tokenizer, 512)
    assert spans.tolist() == [[4, 7], [0, 3]]
