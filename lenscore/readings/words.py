"""Whole words from the place of a token in a sentence."""

from __future__ import annotations

import re
import unicodedata
from codecs import getincrementaldecoder
from collections.abc import Iterable
from functools import cache
from typing import Any

from storage_layouts.errors import InputError

_SPACE_MARKERS = "▁Ġ"  # how sentencepiece and byte-level tokenizers write a leading space
FRAGMENT = "\N{REPLACEMENT CHARACTER}"
"""What byte-level tokenizers decode a part of a character to."""
WORD = re.compile(r"\w+(?:(?:['’](?!s\b)|-)\w+)*")
"""A word of a text, without the 's of "the dog's bowl"."""
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts without spaces between words, whose tokens are not extended."""


def whole_word(text: str, start: int, end: int) -> str:
    """The word of `text` at the characters start..end: "hotdog" for the token "dog" of "a hotdog".

    The token is stripped, and extended on both sides over letters, digits and, between those, apostrophes and hyphens.
    Punctuation is not extended. Raises ValueError for an offset outside the text.
    """
    start, end = word_span(text, start, end)
    return text[start:end]


def sentence_with_mark(text: str, start: int, end: int) -> str:
    """The sentence with the whole word around start..end in brackets: "a red [car] on a road"."""
    start, end = word_span(text, start, end)
    return f"{text[:start]}[{text[start:end]}]{text[end:]}"


def beginning(text: str, word: str) -> tuple[int, int]:
    """Start and end of a word with which a text begins, behind blanks; equal if it begins with something else."""
    start = len(text) - len(text.lstrip())
    return start, start + len(word) if text.startswith(word, start) else start


def word_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Start and end of the whole word (see `whole_word`)."""
    if not 0 <= start <= end <= len(text):
        raise ValueError(f"characters {start}..{end} are outside a text of {len(text)} characters")
    start, end = character_span(text, start, end)
    if start == end:
        return start, end
    if _in_word(text, start):
        while start > 0 and _in_word(text, start - 1):
            start -= 1
    if _in_word(text, end - 1):
        while end < len(text) and _in_word(text, end):
            end += 1
    return start, end


def character_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Start and end of the characters start..end without blanks at both ends, but with all marks of a character.

    A tokenizer that composes its input gives a decomposed character the place of its base alone: of "か" with a voicing
    mark, which it reads as "が", that of "か".
    """
    start = end - len(text[start:end].lstrip())
    end = start + len(text[start:end].rstrip())
    if start == end:
        return start, end
    while start > 0 and _is_mark(text[start]):
        start -= 1
    while end < len(text) and _is_mark(text[end]):
        end += 1
    return start, end


def token_in_text(token: str, text: str, start: int, end: int) -> str:
    """A decoded token at the characters start..end; a fragment of a character's bytes is shown as that character."""
    if FRAGMENT not in token:
        return token
    _, end = character_span(text, start, end)
    return text[start:end] or token


def token_word(token: str) -> str:
    """A decoded token without its space marker or surrounding spaces."""
    return token.strip().lstrip(_SPACE_MARKERS).strip()


def distinct_words(words: Iterable[str]) -> list[str]:
    """Words that are asked for, with single spaces. Raises InputError if there is none, or one is empty or twice.

    Words that differ in case alone are the same.
    """
    found = [" ".join(word.split()) for word in words]
    if not found or not all(found) or len(set(map(folded, found))) < len(found):
        raise InputError(f"words {', '.join(map(repr, found)) or '(none)'}: expected each once, and at least one")
    return found


def folded(word: str) -> str:
    """A word in a normal form without differences of case, spaces and the encoding of accents.

    Canonical caseless matching of the Unicode standard (section 3.13, D145): "é" may be one character or two.
    """
    word = " ".join(word.split())
    if word.isascii():  # most words, for which this is many times as fast
        return word.lower()
    decomposed = unicodedata.normalize("NFD", word)
    return unicodedata.normalize("NFC", decomposed.casefold())


def token_texts(tokenizer: Any, rows: int) -> list[str]:
    """The decoded text of each token id below `rows`, with spaces; "" for unknown ids."""
    known = set(tokenizer.get_vocab().values())
    return [token_text(tokenizer, i) if i in known else "" for i in range(rows)]


def token_text(tokenizer: Any, token_id: int) -> str:
    """The decoded text of a token id, with spaces."""
    return tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)


def token_bytes(tokenizer: Any, token_id: int) -> bytes | None:
    """The bytes of a token that holds a part of a character; None for other tokens, and if they are not known."""
    if FRAGMENT not in token_text(tokenizer, token_id):
        return None
    token = tokenizer.convert_ids_to_tokens(token_id)
    if fallback := re.fullmatch(r"<0x([0-9A-F]{2})>", token):  # as SentencePiece writes a byte
        return bytes.fromhex(fallback[1])
    known = _byte_level()
    return bytes(known[character] for character in token) if known.keys() >= set(token) else None


@cache
def _byte_level() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # reports read words without transformers

    return {character: byte for byte, character in bytes_to_unicode().items()}


def candidate_text(token_id: int, text: str, raw: bytes | None) -> str:
    """How a candidate is shown, from its decoded text and what `token_bytes` gives: as bytes if it is no whole text."""
    return text if raw is None else texts_in_sequence([(token_id, text, raw)])[0]


_NO_CHARACTER = "".join(map(chr, range(0xDC80, 0xDD00)))
"""What bytes decode to that are no character (PEP 383)."""


def texts_in_sequence(tokens: Iterable[tuple[int, str, bytes | None]]) -> tuple[str, ...]:
    """How each token of a sequence is shown, from its id, its decoded text and what `token_bytes` gives.

    A character of several tokens stands at the last of them, the others show their bytes, as in <0xE7>. A token without
    text is shown as its id, as in #151643.
    """
    shown = []
    decoder = getincrementaldecoder("utf-8")("surrogateescape")
    for token_id, text, raw in tokens:
        if raw is None:
            decoder.reset()
            shown.append(text or f"#{token_id}")
            continue
        held = len(decoder.getstate()[0])  # bytes that stand at the tokens before
        whole = decoder.decode(raw)
        if whole[:1] in _NO_CHARACTER:
            whole = whole[held:]  # no character goes on as they begin
        begun = decoder.getstate()[0][-len(raw) :]  # the bytes of this token in a character that goes on
        shown.append(_with_bytes(whole) + _with_bytes(begun.decode("utf-8", "surrogateescape")))
    return tuple(shown)


def _with_bytes(text: str) -> str:
    """The text with bytes that are no character, which surrogates stand for, as in <0xE7>."""
    return re.sub(f"[{_NO_CHARACTER}]", lambda one: f"<0x{ord(one[0]) - 0xDC00:02X}>", text)


def encodable(text: str) -> str:
    """The text with U+FFFD for bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _in_word(text: str, i: int) -> bool:
    """Whether character i is part of a word; apostrophes and hyphens between two letters are."""
    if _is_letter(text[i]):
        return True
    between = text[i] in "'’-" and 0 < i < len(text) - 1
    return between and _is_letter(text[i - 1]) and _is_letter(text[i + 1])


def _is_mark(character: str) -> bool:
    return not character.isascii() and unicodedata.category(character).startswith("M")


def _is_letter(character: str) -> bool:
    if character.isascii():  # nearly all, for which this is many times as fast
        return character.isalnum() or character == "_"
    in_words = unicodedata.category(character)[0] in "LNM"
    return in_words and not unicodedata.name(character, "").startswith(UNSPACED)
