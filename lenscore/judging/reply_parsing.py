"""What a service's reply says. Nothing in it is believed: types, shapes and numbers of foreign JSON may be anything."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Api = Literal["responses", "chat"]

MOST_TOKENS = 10**8
"""No request takes so many tokens; a larger count is not believed."""
RAISE_LIMIT = "raise --max-output-tokens"
_LONGEST_NUMBER = 40
_COUNTS = {"responses": ("input_tokens", "output_tokens"), "chat": ("prompt_tokens", "completion_tokens")}


@dataclass(frozen=True)
class ApiReply:
    """What a reply says.

    Attributes:
        text: of the model, or "".
        refused: the model declined.
        usage: input_tokens, cached_tokens and output_tokens; None if it does not say, or says what cannot be.
        tier: the service tier that answered, or "".
        note: why the text is empty or cut, or "".
        failure: why this is no answer at all, in the service's words; "" for an answer.
        code: the service's code and type of the failure.
        status: HTTP status that the failure stands for.
        may_be_paid: of a failure without usage.

    """

    text: str = ""
    refused: bool = False
    usage: dict[str, int] | None = None
    tier: str = ""
    note: str = ""
    failure: str = ""
    code: str = ""
    status: int = 200
    may_be_paid: bool = False


def read_response(api: Api, status: int, text: str, whole: bool = True) -> ApiReply:
    """What the reply to one request says; ``whole``: its body came to the end. Never raises."""
    try:
        content = _loads(text)
    except RecursionError:
        content = {"error": "nested too deeply"}
        if status < 300:
            return ApiReply(note="the reply is nested too deeply to be read")
    except ValueError:
        content = None
    if status >= 300:
        error = _error_of(content) if isinstance(content, dict) else text
        return _failure(status, error, f"Error code: {status} - ")
    if content is None:
        cut = not whole or text.lstrip()[:1] in ("{", "[")
        what = "a reply that was cut off" if cut else "no JSON"
        return ApiReply(failure=f"{what}: {plain(text) or 'an empty body'}", may_be_paid=cut)
    return _read(api, content)


def read_batch_line(api: Api, text: str) -> ApiReply:
    """What a line of a batch's output says: an envelope around the reply to one request. Never raises."""
    try:
        line = _loads(text)
    except RecursionError:
        return ApiReply(note="the reply is nested too deeply to be read")
    except ValueError:
        line = None
    if not isinstance(line, dict):
        return ApiReply(failure=f"a line that was cut off: {plain(text)}", may_be_paid=True)
    response = line.get("response")
    response = response if isinstance(response, dict) else {}
    if response.get("status_code") == 200:
        return _read(api, response.get("body"))
    status, body = response.get("status_code"), response.get("body")
    error = line.get("error") or (_error_of(body) if isinstance(body, dict) else body)
    status = status if isinstance(status, int) else 0
    return _failure(status, error, f"{status or ''} {_code(error)} ".lstrip())


def text_of(content: Any) -> str:
    """The text in the content of a message: a string, or the parts of a list that are text; "" for anything else."""
    if isinstance(content, list):
        return "".join(map(_text_of_part, content))
    if not isinstance(content, str):
        return ""
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # no lone surrogates


def plain(text: str) -> str:
    """Foreign text as a short line for people, without control characters."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text[:2000].split()))[:300]


def _text_of_part(part: Any) -> str:
    if isinstance(part, dict):
        part = part.get("text") if part.get("type", "text") in ("text", "output_text") else ""
    return text_of(part) if isinstance(part, str) else ""


def _loads(text: str) -> Any:
    # A number of thousands of digits would be refused, and the text beside it lost.
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < _LONGEST_NUMBER else math.inf)


def _read(api: Api, content: Any) -> ApiReply:
    if not isinstance(content, dict):
        return ApiReply(failure=f"no object but {plain(_dumped(content))}")
    usage = _usage(api, content.get("usage"))
    may_be_paid = bool(content.get("usage"))
    name = "choices" if api == "chat" else "output"
    parts = content.get(name)
    choice = parts[0] if isinstance(parts, list) and parts else None
    error = content.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
    status = content.get("status")
    if error or (api == "responses" and status in ("failed", "cancelled", "queued", "in_progress")):
        error = error or f"status {status}"
        return _failure(_status(error), error, "", usage, may_be_paid)
    if not isinstance(parts, list) or (not parts and status != "incomplete"):
        found = ", ".join(list(content)[:8]) or "nothing"
        return _failure(200, f"a reply without {name} (it has {found})", "", usage, may_be_paid)
    tier = content.get("service_tier")
    said, refusal, note = _chat(choice) if api == "chat" else _output(content, parts)
    refused = bool(refusal) or note == "content_filter"
    return ApiReply(
        text_of(refusal) or said, refused, usage, tier if isinstance(tier, str) else "", "" if refused else note
    )


def _chat(choice: Any) -> tuple[str, Any, str]:
    """Text, refusal and note of a choice."""
    choice = choice if isinstance(choice, dict) else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    text, ends = text_of(message.get("content")), choice.get("finish_reason")
    if ends == "content_filter":
        return text, message.get("refusal"), "content_filter"
    thought = bool(message.get("reasoning_content") or message.get("reasoning"))
    kind = "null" if message.get("content") is None else type(message.get("content")).__name__
    return text, message.get("refusal"), _note(text, ends == "length", thought, kind)


def _output(content: dict[str, Any], items: list[Any]) -> tuple[str, Any, str]:
    """Text, refusal and note of the output of the Responses API."""
    details = content.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    parts = list(_parts(items))
    refusals = [text_of(part.get("refusal")) or "refused" for part in parts if part.get("type") == "refusal"]
    text = "".join(_text_of_part(part) for part in parts if part.get("type") == "output_text")
    thought = any(isinstance(item, dict) and item.get("type") == "reasoning" for item in items)
    note = "content_filter" if reason == "content_filter" else _note(text, reason == "max_output_tokens", thought, "")
    return text, "\n".join(refusals), note


def _parts(items: list[Any]) -> Iterator[dict[str, Any]]:
    for item in items:
        if isinstance(item, dict) and item.get("type") == "message" and isinstance(item.get("content"), list):
            yield from (part for part in item["content"] if isinstance(part, dict))


def _note(text: str, cut: bool, thought: bool, kind: str) -> str:
    if text:
        return f"the reply was cut off; {RAISE_LIMIT}" if cut else ""
    if cut or thought:
        return f"the reply is empty, since its tokens went into reasoning; {RAISE_LIMIT}"
    return "the reply is empty" + (f" (its content is {kind})" if kind else "")


def _usage(api: Api, usage: Any) -> dict[str, int] | None:
    if not isinstance(usage, dict):
        return None
    taken, made = (_count(usage.get(name)) for name in _COUNTS[api])
    if taken is None or made is None:
        return None
    details = usage.get("input_tokens_details" if api == "responses" else "prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return {"input_tokens": taken, "cached_tokens": min(cached or 0, taken), "output_tokens": made}


def _count(value: Any) -> int | None:
    """A number of tokens; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def _failure(status: int, error: Any, before: str, usage: dict[str, int] | None = None, paid: bool = False) -> ApiReply:
    message = error.get("message") if isinstance(error, dict) else error
    words = message if isinstance(message, str) else _dumped(error)
    said = before + (plain(words) or "it does not say why")
    return ApiReply(failure=said, code=_code(error), status=status, usage=usage, may_be_paid=paid)


def _error_of(content: dict[str, Any]) -> Any:
    return content.get("error") or content.get("detail") or content


def _code(error: Any) -> str:
    named = (error.get(name) for name in ("code", "type")) if isinstance(error, dict) else ()
    return plain(" ".join(dict.fromkeys(str(name) for name in named if isinstance(name, (str, int)))))


def _status(error: Any) -> int:
    """The HTTP status that an error within a reply of status 200 stands for, where its code is one."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 200


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):
        return ""
