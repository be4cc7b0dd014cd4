"""What services send that is no plain reply: odd numbers, odd shapes, thoughts aloud, errors, pages and torn bodies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Response = dict[str, Any]
PAGE = "<html><body>Sign in\x1b[31m to go on</body></html>"
OVERLOADED = "the upstream is overloaded"


@dataclass(frozen=True)
class Odd:
    """A way to spoil a response.

    Attributes:
        body: bytes that are sent, from a proper response.
        means: the judge's answer can be read, or it cannot, or there is none.
        billed: the service charges for it.
        sent: share of the bytes that leave before the connection is closed.

    """

    body: Callable[[Response], bytes]
    means: Literal["answer", "unparsable", "failed"]
    billed: bool = True
    sent: float = 1.0


def text_of(response: Response) -> str:
    """What the judge says in a response of either shape."""
    if "choices" in response:
        return response["choices"][0]["message"]["content"]
    return response["output"][1]["content"][0]["text"]


def saying(change: Callable[[str], Any], **choice: Any) -> Callable[[Response], bytes]:
    def body(response: Response) -> bytes:
        content = change(text_of(response))
        if "choices" in response:
            response["choices"][0]["message"] |= {"content": content, **choice.pop("message", {})}
            response["choices"][0] |= choice
        elif content is None:
            response["output"] = response["output"][:1]
            response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        elif isinstance(content, str):
            response["output"][1]["content"][0]["text"] = content
        elif isinstance(content, list):
            response["output"][1]["content"] = [part | {"type": "output_text"} for part in content]
        else:
            response["output"][1]["content"][0]["text"] = content
        return json.dumps(response).encode()

    return body


def counting(number: str) -> Callable[[Response], bytes]:
    """Token counts of another kind, as they stand in the JSON."""

    def body(response: Response) -> bytes:
        usage = {name: "COUNT" if name.endswith("_tokens") else value for name, value in response["usage"].items()}
        return json.dumps(response | {"usage": usage}).replace('"COUNT"', number).encode()

    return body


def beside(value: str) -> Callable[[Response], bytes]:
    """A field more, that nobody needs."""
    return lambda response: json.dumps(response | {"x": "VALUE"}).replace('"VALUE"', value).encode()


def whole(response: Response) -> bytes:
    return json.dumps(response).encode()


def instead(content: Any) -> Callable[[Response], bytes]:
    return lambda response: content if isinstance(content, bytes) else json.dumps(content).encode()


DEEP = "[" * 100_000 + "]" * 100_000
ODDITIES: dict[str, Odd] = {
    **{
        f"usage {name}": Odd(counting(number), "answer")
        for name, number in {
            "negative": "-1000000",
            "NaN": "NaN",
            "infinite": "1e999",
            "of 400 digits": "9" * 400,
            "of 5000 digits": "9" * 5000,
            "text": '"900"',
            "true": "true",
            "absurd": "1000000000",
            "null": "null",
        }.items()
    },
    "usage a list": Odd(lambda response: whole(response | {"usage": [1, 2]}), "answer"),
    "no usage": Odd(lambda response: whole({k: v for k, v in response.items() if k != "usage"}), "answer"),
    "NaN beside": Odd(beside("NaN"), "answer"),
    "nested deeply": Odd(beside(DEEP), "unparsable"),
    "content in parts": Odd(
        saying(lambda text: [{"type": "text", "text": text[:30]}, {"type": "text", "text": text[30:]}]), "answer"
    ),
    "content an object": Odd(saying(lambda text: {"text": text}), "unparsable"),
    "content null": Odd(saying(lambda text: None, finish_reason="length"), "unparsable"),
    "not UTF-8": Odd(lambda response: whole(response).replace(b"it shows", b"it \xe9 shows"), "answer"),
    "thinking": Odd(saying(lambda text: f"<think>{{red}}? No.</think>\n{text}"), "answer"),
    "prose": Odd(saying(lambda text: f"My answer:\n```json\n{text}\n```\nI hope it helps."), "answer"),
    "error in a 200": Odd(instead({"error": {"message": OVERLOADED, "code": 529}}), "failed", billed=False),
    "error beside": Odd(
        lambda response: whole({"error": OVERLOADED, "choices": [], "output": []}), "failed", billed=False
    ),
    "page": Odd(instead(PAGE.encode()), "failed", billed=False),
    "nothing": Odd(instead(b""), "failed", billed=False),
    "no choices": Odd(instead({"id": "x", "choices": [], "output": []}), "failed", billed=False),
    "a list": Odd(instead([1, "\ud800"]), "failed", billed=False),
    "cut": Odd(lambda response: whole(response)[:100], "failed"),
    "torn": Odd(whole, "failed", sent=0.5),
}
