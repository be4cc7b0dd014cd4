"""A text or the messages of a chat as the model's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lenscore.readings.words import FRAGMENT, token_in_text, token_text
from storage_layouts.errors import InputError, first_line

Messages = Sequence[Mapping[str, Any]]
"""A chat: [{"role": "user", "content": "..."}, ...]."""


@dataclass(frozen=True)
class TextTokens:
    """The ids of a text's tokens, special ones too, and the text of each."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]


def text_tokens(text: str | Messages, tokenizer: Any, name: str) -> TextTokens:
    """Tokenise a text as the tokenizer does by itself, or messages by the model's chat template.

    `name` stands for the text in errors. Raises InputError for an empty text, and for messages if the tokenizer has no
    chat template or its template refuses them.
    """
    begins = getattr(tokenizer, "bos_token", None)
    if not isinstance(text, str):
        text = _chat(text, tokenizer, name)
    if not text.strip():
        raise InputError(f"{name}: an empty text; expected words to read")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are not UTF-8, or half of a character
        raise InputError(f"{name}: character {error.start} is no text in UTF-8; expected words to read") from None
    special = not (begins and text.startswith(begins))  # a chat template may contain it already
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    texts = [token_in_text(token_text(tokenizer, i), text, *span) for i, span in zip(ids, offsets, strict=True)]
    return TextTokens(tuple(ids), tuple(texts))


def answer_texts(ids: Sequence[int], tokenizer: Any) -> tuple[str, ...]:
    """The text of each token of an answer. A character of several tokens is shown at the last of them."""
    texts: list[str] = []
    known = ""
    for end in range(1, len(ids) + 1):
        whole = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if whole.endswith(FRAGMENT) or not whole.startswith(known):
            texts.append(token_text(tokenizer, ids[end - 1]))
        else:
            texts.append(whole[len(known) :])
            known = whole
    return tuple(texts)


def _chat(messages: Messages, tokenizer: Any, name: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{name}: messages of a chat, but the model has no chat template; give plain text, or a model for chat"
        )
    for message in messages:
        if not (isinstance(message, Mapping) and isinstance(message.get("role"), str) and "content" in message):
            raise InputError(f'{name}: found {message!r:.80}, expected messages {{"role": ..., "content": ...}}')
        parts = message["content"] if isinstance(message["content"], list) else []
        if kinds := {str(part.get("type")) for part in parts if isinstance(part, Mapping)} - {"text"}:
            raise InputError(f"{name}: a message with {', '.join(sorted(kinds))}; expected text alone")
    asked = not messages or messages[-1]["role"] != "assistant"
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asked)
    except Exception as error:  # whatever a template raises, which comes with the model
        raise InputError(f"{name}: the model's chat template refuses the messages ({first_line(error)})") from None
    return text
