"""A word that somebody asks for, as tokens of a vocabulary and as rows of an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from lenscore.contexts.tokenization import tokenize_with_spans
from lenscore.index.row_words import RowWords
from lenscore.models.decoder import DEFAULT_MAX_TOKENS
from lenscore.models.text_only import no_text_ids
from lenscore.readings.words import folded
from lenscore.single_image.lens_readings import row_word
from storage_layouts.errors import InputError

_BEFORE = "a "


def tokens_of_word(word: str, tokenizer: Any) -> tuple[int, ...]:
    """The token ids of a word as it stands inside a sentence, without special tokens.

    The tokenizer reads the word behind another one ("a boat"), so that the word has its leading space where tokens have
    one: byte-level tokenizers write it as "Ġboat", SentencePiece as "▁boat". Tokens of the space alone do not count.
    Raises InputError if the tokenizer does not know the word, or reads it as a special token.
    """
    text = _BEFORE + word
    (ids,), spans = tokenize_with_spans([text], tokenizer, DEFAULT_MAX_TOKENS)
    of_word = [place for place, (start, end) in enumerate(spans.tolist()) if max(start, len(_BEFORE)) < end]
    found = tuple(ids[place] for place in of_word)
    begins = bool(of_word) and spans[of_word[0], 0] >= len(_BEFORE) - 1
    if not begins or set(found) & no_text_ids(tokenizer):
        read = " ".join(map(repr, tokenizer.convert_ids_to_tokens(list(found)))) or "nothing"
        raise InputError(f"{word!r}: the tokenizer of the model has no tokens for this word (it reads {read})")
    return found


def rows_of_words(
    words: Sequence[str], tables: Mapping[int, RowWords], tokenizer: Any
) -> list[dict[int, tuple[int, ...]]]:
    """The rows of each word by contextual layer, ascending: those that pages and reports would show as this word.

    Words are compared by `lenscore.readings.words.folded`: without differences of case. `tables` are the words of the
    rows of each layer; `tokenizer` finds words whose place was not stored.
    """
    wanted = list(map(folded, words))
    known: dict[RowWords, list[tuple[int, ...]]] = {}
    for table in tables.values():
        if table not in known:
            known[table] = _rows_in(table, wanted, tokenizer)
    return [{layer: known[table][number] for layer, table in tables.items()} for number in range(len(words))]


def _rows_in(table: RowWords, wanted: Sequence[str], tokenizer: Any) -> list[tuple[int, ...]]:
    # Most sentences hold none of the words, and are not looked at word by word.
    texts = map(folded, table.sentences["text"].to_pylist())
    some = table.sentences["sentence_id"].filter([any(word in text for word in wanted) for text in texts])
    rows = pc.indices_nonzero(pc.is_in(table.rows["sentence_id"], value_set=some.combine_chunks())).to_pylist()
    found: dict[str, list[int]] = {word: [] for word in wanted}
    for row, described in zip(rows, table.describe(rows), strict=True):
        word = folded(row_word(described, tokenizer).text)
        if word in found:
            found[word].append(row)
    return [tuple(found[word]) for word in wanted]
