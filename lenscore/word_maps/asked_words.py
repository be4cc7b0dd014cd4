"""A word that somebody asks for, as tokens of a vocabulary and as rows of an index."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from lenscore.contexts.tokenization import tokenize_with_spans
from lenscore.index.row_words import RowWords
from lenscore.index.topk import NO_CONTEXTUAL_LAYER
from lenscore.judging.truth_files.word_forms import word_forms
from lenscore.lenses.references import hashed_numbers
from lenscore.models.decoder import DEFAULT_MAX_TOKENS
from lenscore.models.text_only import no_text_ids
from lenscore.readings.words import folded, token_text, token_word
from lenscore.single_image.lens_readings import row_word
from storage_layouts.counts import counted
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError

_BEFORE = "a "


def tokens_of_word(word: str, tokenizer: Any) -> tuple[int, ...]:
    """The token ids of a word as it stands inside a sentence, without special tokens.

    The tokenizer reads the word behind another one ("a boat"), so that the word has its leading space where tokens have
    one: byte-level tokenizers write it as "Ġboat", SentencePiece as "▁boat". Tokens of the space alone do not count.
    Raises InputError if the tokenizer does not know the word, or reads it as a special token.
    """
    found, first = _read(_BEFORE, word, tokenizer)
    begins = first is not None and first >= len(_BEFORE) - 1
    if not begins or set(found) & no_text_ids(tokenizer):
        read = " ".join(map(repr, tokenizer.convert_ids_to_tokens(list(found)))) or "nothing"
        raise InputError(f"{word!r}: the tokenizer of the model has no tokens for this word (it reads {read})")
    return found


def _read(before: str, word: str, tokenizer: Any) -> tuple[tuple[int, ...], int | None]:
    """The tokens of a word behind something else, and the character at which they begin."""
    (ids,), spans = tokenize_with_spans([before + word], tokenizer, DEFAULT_MAX_TOKENS)
    of_word = [place for place, (start, end) in enumerate(spans.tolist()) if max(start, len(before)) < end]
    return tuple(ids[place] for place in of_word), int(spans[of_word[0], 0]) if of_word else None


def first_tokens(word: str, tokenizer: Any) -> tuple[int, ...]:
    """The tokens with which a word begins in a text: in singular and plural, with and without a capital or a space.

    A form of more tokens than the word has behind a space is left out, because its first token begins other words too.
    Raises InputError as `tokens_of_word`.
    """
    most, special = len(tokens_of_word(word, tokenizer)), no_text_ids(tokenizer)
    found: set[int] = set()
    for form in {word, *word_forms(word)}:
        for text in {form, form[:1].upper() + form[1:]}:
            for before in ("", _BEFORE):
                ids, first = _read(before, text, tokenizer)
                begins = first is not None and first <= len(before)
                if begins and len(ids) <= most and not set(ids) & special:
                    found.update(ids[:1])
    return tuple(sorted(found))


def says_word(text: str, word: str) -> bool:
    """Whether a text has a word, in singular or plural, of any case, and not as a part of another word."""
    text = folded(text)
    return any(re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text) for form in word_forms(word))


def require_rows(words: Sequence[str], store: EmbeddingStore, tokenizer: Any) -> None:
    """Raises InputError for a word of which a store has no row."""
    table = RowWords.of_store(store)
    for word, rows in zip(words, rows_of_words(words, {NO_CONTEXTUAL_LAYER: table}, tokenizer), strict=True):
        if not rows[NO_CONTEXTUAL_LAYER]:
            raise InputError(f"{word!r}: {no_row(store.path, len(table))}; {NO_ROW_REMEDY}")


NO_ROW_REMEDY = "expected a word of its sentences, or another lens"


def no_row(where: object, rows: int) -> str:
    """What a message says of a word that a store or index with so many rows does not have."""
    return f"no row of {where} ({counted(rows, 'row')} a layer) is this word"


def other_word(word: str, asked: Sequence[str], table: RowWords | None, tokenizer: Any, seed: int) -> str:
    """Another word, as a control: that of a row of a store (or of a token, without a store), which a hash chooses.

    It has only letters, and is none of the asked words in singular or plural.
    """
    known = {form for one in asked for form in word_forms(one)}
    rows = len(tokenizer) if table is None else len(table)
    for number in (hashed_numbers(f"lenscore.other_word/{seed}/{folded(word)}", _TRIES) % rows).tolist():
        if table is None:
            found = token_word(token_text(tokenizer, number))
        else:
            found = row_word(table.describe([number])[0], tokenizer).text
        if found.isalpha() and folded(found) not in known and has_tokens(found, tokenizer):
            return found
    raise InputError(f"{word!r}: found no other word to compare it with")


_TRIES = 1000


def has_tokens(word: str, tokenizer: Any) -> bool:
    """Whether `tokens_of_word` finds tokens for a word."""
    try:
        return bool(tokens_of_word(word, tokenizer))
    except InputError:
        return False


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
