"""The two shapes of the API, responses and chat.completions: what is sent, and what a reply says.

Replies are untrusted: the types, shapes and numbers in a service's JSON may be anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from lenscore.judging.question_pictures import Picture
from lenscore.judging.questions import Question
from lenscore.judging.replies import Reply
from storage_layouts.files import canonical_json

Api = Literal["responses", "chat"]

MOST_TOKENS = 10**8
"""No request takes so many tokens; a larger count is an error of the service."""
RAISE_LIMIT = "raise --max-output-tokens"
SCHEMA = {name: value for name, value in Reply.model_json_schema().items() if name != "description"}
"""Strict: every field required, no other allowed. Without our own docstring, which must not change request keys."""
_LONGEST_NUMBER = 40
_COUNTS = {
    "responses": ("input_tokens", "output_tokens", "input_tokens_details"),
    "chat": ("prompt_tokens", "completion_tokens", "prompt_tokens_details"),
}


@dataclass(frozen=True)
class Endpoint:
    """A model with its address; together with a question, all that decides the reply.

    Attributes:
        api: the shape of requests and responses.
        url: the service, as in https://api.openai.com/v1.
        model: its name there.
        max_output_tokens: where a reply is cut off.

    """

    api: Api
    url: str
    model: str
    max_output_tokens: int

    def key(self, question: Question, repeat: int = 0) -> str:
        """Hash of the request: requests with equal keys have the same answer in the ledger."""
        parts = vars(self) | {"schema": SCHEMA, "question": question.sha256, "repeat": repeat}
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def body(self, question: Question) -> dict[str, Any]:
        """The JSON of a request."""
        pictures = [f"data:image/png;base64,{_base64(image)}" for image in question.images]
        form = {"name": "verdict", "schema": SCHEMA, "strict": True}
        if self.api == "responses":
            content: list[dict[str, Any]] = [{"type": "input_text", "text": question.text}]
            content += [{"type": "input_image", "image_url": url, "detail": "high"} for url in pictures]
            return {
                "model": self.model,
                "input": [{"role": "user", "content": content}],
                "text": {"format": {"type": "json_schema", **form}},
                "max_output_tokens": self.max_output_tokens,
                "store": False,
            }
        content = [{"type": "text", "text": question.text}]
        content += [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "response_format": {"type": "json_schema", "json_schema": form},
            "max_tokens": self.max_output_tokens,
        }


@lru_cache(maxsize=16)
def _base64(picture: Picture) -> str:
    return base64.b64encode(picture.png).decode("ascii")


@dataclass(frozen=True)
class ApiReply:
    """The content of a reply.

    Attributes:
        text: of the model, or "".
        refused: the model declined.
        usage: input_tokens, cached_tokens and output_tokens; None if they are missing or impossible.
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


_TOO_DEEP = ApiReply(note="the reply is nested too deeply to be read")


def read_response(api: Api, status: int, text: str, whole: bool = True) -> ApiReply:
    """Parse the reply to one request; ``whole``: its body is complete. Never raises."""
    try:
        content = _loads(text)
    except RecursionError:
        if status < 300:
            return _TOO_DEEP
        content = {"error": "nested too deeply"}
    except ValueError:
        content = None
    if status >= 300:
        return _failure(status, _error_of(content if isinstance(content, dict) else text), f"Error code: {status} - ")
    if content is None:
        cut = not whole or text.lstrip()[:1] in ("{", "[")
        what = "a reply that was cut off" if cut else "no JSON"
        return ApiReply(failure=f"{what}: {plain(text) or 'an empty body'}", may_be_paid=cut)
    return _read(api, content)


def read_batch_line(api: Api, text: str) -> ApiReply:
    """Parse a line of a batch's output: an envelope around the reply to one request. Never raises."""
    try:
        line = _loads(text)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:
        line = None
    if not isinstance(line, dict):
        return ApiReply(failure=f"a line that was cut off: {plain(text)}", may_be_paid=True)
    response = _object(line.get("response"))
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        return _read(api, body)
    error = line.get("error") or _error_of(body)
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
    """Text of a service as a short line for people, without control characters."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text[:2000].split()))[:300]


def _text_of_part(part: Any) -> str:
    if isinstance(part, dict):
        part = part.get("text") if part.get("type", "text") in ("text", "output_text") else ""
    return text_of(part) if isinstance(part, str) else ""


def _loads(text: str) -> Any:
    # A number of thousands of digits would be refused, and the text beside it lost.
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < _LONGEST_NUMBER else math.inf)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read(api: Api, content: Any) -> ApiReply:
    if not isinstance(content, dict):
        return ApiReply(failure=f"no object but {plain(_dumped(content))}")
    usage = _usage(api, content.get("usage"))
    may_be_paid = bool(content.get("usage"))
    name = "choices" if api == "chat" else "output"
    parts = content.get(name)
    choice = _object(parts[0] if isinstance(parts, list) and parts else None)
    error = content.get("error") or choice.get("error")
    status = content.get("status")
    if error or (api == "responses" and status in ("failed", "cancelled", "queued", "in_progress")):
        error = error or f"status {status}"
        return _failure(_status(error), error, "", usage, may_be_paid)
    if not isinstance(parts, list) or (not parts and status != "incomplete"):
        found = ", ".join(list(content)[:8]) or "nothing"
        return _failure(200, f"a reply without {name} (it has {found})", "", usage, may_be_paid)
    text, refusal, note = _chat(choice) if api == "chat" else _output(content, parts)
    refused = bool(refusal) or note == "content_filter"
    tier = content.get("service_tier")
    tier = tier if isinstance(tier, str) else ""
    return ApiReply(text_of(refusal) or text, refused, usage, tier, "" if refused else note)


def _chat(choice: dict[str, Any]) -> tuple[str, Any, str]:
    """Text, refusal and note of a choice."""
    message, ends = _object(choice.get("message")), choice.get("finish_reason")
    content, refusal = message.get("content"), message.get("refusal")
    text = text_of(content)
    if ends == "content_filter":
        return text, refusal, "content_filter"
    thought = bool(message.get("reasoning_content") or message.get("reasoning"))
    return text, refusal, _note(text, ends == "length", thought, "null" if content is None else type(content).__name__)


def _output(content: dict[str, Any], items: list[Any]) -> tuple[str, Any, str]:
    """Text, refusal and note of the output of the Responses API."""
    reason = _object(content.get("incomplete_details")).get("reason")
    contents = [item.get("content") for item in map(_object, items) if item.get("type") == "message"]
    parts = [_object(part) for content in contents if isinstance(content, list) for part in content]
    refusals = [text_of(part.get("refusal")) or "refused" for part in parts if part.get("type") == "refusal"]
    text = "".join(_text_of_part(part) for part in parts if part.get("type") == "output_text")
    thought = any(_object(item).get("type") == "reasoning" for item in items)
    note = "content_filter" if reason == "content_filter" else _note(text, reason == "max_output_tokens", thought, "")
    return text, "\n".join(refusals), note


def _note(text: str, cut: bool, thought: bool, kind: str) -> str:
    if text:
        return f"the reply was cut off; {RAISE_LIMIT}" if cut else ""
    if cut or thought:
        return f"the reply is empty, since its tokens went into reasoning; {RAISE_LIMIT}"
    return "the reply is empty" + (f" (its content is {kind})" if kind else "")


def _usage(api: Api, usage: Any) -> dict[str, int] | None:
    if not isinstance(usage, dict):
        return None
    taken, made, details = (usage.get(name) for name in _COUNTS[api])
    taken, made, cached = _count(taken), _count(made), _count(_object(details).get("cached_tokens"))
    if taken is None or made is None:
        return None
    return {"input_tokens": taken, "cached_tokens": min(cached or 0, taken), "output_tokens": made}


def _count(value: Any) -> int | None:
    """A number of tokens; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def _failure(status: int, error: Any, before: str, usage: dict[str, int] | None = None, paid: bool = False) -> ApiReply:
    message = error.get("message") if isinstance(error, dict) else error
    words = message if isinstance(message, str) else _dumped(error)
    reason = before + (plain(words) or "it does not say why")
    return ApiReply(failure=reason, code=_code(error), status=status, usage=usage, may_be_paid=paid)


def _error_of(body: Any) -> Any:
    return (body.get("error") or body.get("detail") or body) if isinstance(body, dict) else body


def _code(error: Any) -> str:
    named = (_object(error).get(name) for name in ("code", "type"))
    return plain(" ".join(dict.fromkeys(str(name) for name in named if isinstance(name, (str, int)))))


def _status(error: Any) -> int:
    """The HTTP status that an error within a reply of status 200 stands for, where its code is one."""
    code = _object(error).get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 200


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):
        return ""
