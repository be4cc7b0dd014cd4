"""A text or the messages of a chat as the model's tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lenscore.readings.words import texts_in_sequence, token_bytes, token_text
from storage_layouts.errors import InputError, first_line

Messages = Sequence[Mapping[str, Any]]
"""A chat: [{"role": "user", "content": "..."}, ...]."""


def text_ids(text: str | Messages, tokenizer: Any, name: str, template: str | None = None) -> list[int]:
    """The ids of a text as the tokenizer reads it by itself, or of messages by a chat template, by default its own.

    `name` stands for the text in errors. Raises InputError for an empty text, and for messages if there is no template
    or it does not take them.
    """
    begins = getattr(tokenizer, "bos_token", None)
    if not isinstance(text, str):
        text = _chat(text, tokenizer, name, template)
    if not text.strip():
        raise InputError(f"{name}: an empty text; expected words to read")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of a command line that are not UTF-8, or half of a character
        raise InputError(f"{name}: character {error.start} is no text in UTF-8; expected words to read") from None
    special = not (begins and text.startswith(begins))  # a chat template may contain it already
    return tokenizer(text, add_special_tokens=special)["input_ids"]


def shown_tokens(ids: Sequence[int], tokenizer: Any) -> tuple[str, ...]:
    """How each token of a sequence is shown, see `texts_in_sequence`."""
    return texts_in_sequence((one, token_text(tokenizer, one), token_bytes(tokenizer, one)) for one in ids)


def _chat(messages: Messages, tokenizer: Any, name: str, template: str | None) -> str:
    """The text of a chat. If the model spoke last, its answer is left open, so that it continues."""
    if not (template or getattr(tokenizer, "chat_template", None)):
        raise InputError(
            f"{name}: messages of a chat, but the model has no chat template; give plain text, or a model for chat"
        )
    said = texts_of_messages(messages, name)
    spoke_last = messages[-1]["role"] == "assistant"
    parts = [{**one, "content": _parts(one["content"])} for one in messages]
    given_in_parts = any(isinstance(message["content"], list) for message in messages)
    best, most, refusal = None, -1, ""
    # Templates of vision-language models may take lists of parts alone, and leave out a plain text without a word.
    for form in [parts] if given_in_parts else [list(messages), parts]:
        try:
            text: str = tokenizer.apply_chat_template(
                form,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=not spoke_last,
                continue_final_message=spoke_last,
            )
        except Exception as error:  # whatever a template raises, which comes with the model
            refusal = refusal or first_line(error)
            continue
        found = sum(one in text for one in said)
        if found > most and not (form is parts and _holds_lists(text, form)):
            best, most = text, found
        if most == len(said):
            break
    if best is not None:
        return best
    if given_in_parts:
        raise InputError(
            f"{name}: a message is a list of parts, which the model's chat template does not take; "
            'expected its text alone, as in {"role": "user", "content": "..."}'
        )
    raise InputError(f"{name}: the model's chat template refuses the messages ({refusal})")


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def texts_of_messages(messages: Sequence[Any], where: str) -> list[str]:
    """The texts of a chat. Raises InputError, with `where`, if there is no message, or one that is none of text."""
    if not messages:
        raise InputError(f'{where}: a chat without messages; expected [{{"role": "user", "content": "..."}}]')
    parts = (_texts_of(message, f"{where}: message {number}") for number, message in enumerate(messages, 1))
    return [text for part in parts for text in part]


def _texts_of(message: Any, where: str) -> list[str]:
    """The texts in a message. Raises InputError for one that is not a role with text, or with a list of texts."""
    if not (isinstance(message, Mapping) and isinstance(message.get("role"), str) and "content" in message):
        raise InputError(f'{where}: found {message!r:.80}, expected {{"role": ..., "content": ...}}')
    content = message["content"]
    if isinstance(content, str):
        return [content.strip()]
    if not isinstance(content, list) or not content:
        raise InputError(f"{where}: content is {_json(content):.80}; expected text, or a list of texts")
    for part in content:
        if isinstance(part, Mapping) and part.get("type", "text") != "text":
            raise InputError(f"{where}: holds {part['type']}; expected text alone (`lens analyze` reads images)")
        if not (isinstance(part, Mapping) and isinstance(part.get("text"), str) and "type" in part):
            raise InputError(f'{where}: found {_json(part):.80}, expected {{"type": "text", "text": "..."}}')
    return [part["text"].strip() for part in content]


def _holds_lists(text: str, messages: Messages) -> bool:
    """Whether a template wrote a list of parts as Python or JSON does."""
    contents = [message["content"] for message in messages]
    return any(written(content) in text for content in contents for written in (str, _json))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
