"""The two shapes of the API: what is sent (responses, or chat.completions)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lenscore.judging.questions import Question
from lenscore.judging.replies import Reply
from lenscore.judging.reply_parsing import Api
from storage_layouts.files import canonical_json

SCHEMA = {name: value for name, value in Reply.model_json_schema().items() if name != "description"}
"""Strict: every field required, no other allowed. Without our own docstring, which must not change request keys."""


@dataclass(frozen=True)
class Endpoint:
    """Where and how a model is asked; with a question, all that decides the reply.

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
        """Hash of the request: equal keys would get a reply to the same question."""
        parts = {
            "api": self.api,
            "url": self.url,
            "model": self.model,
            "max_output_tokens": self.max_output_tokens,
            "schema": SCHEMA,
            "question": question.sha256,
            "repeat": repeat,
        }
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    def body(self, question: Question) -> dict[str, Any]:
        """The JSON of a request."""
        pictures = [f"data:image/png;base64,{_base64(image)}" for image in question.images]
        if self.api == "responses":
            content: list[dict[str, Any]] = [{"type": "input_text", "text": question.text}]
            content += [{"type": "input_image", "image_url": url, "detail": "high"} for url in pictures]
            form = {"type": "json_schema", "name": "verdict", "schema": SCHEMA, "strict": True}
            return {
                "model": self.model,
                "input": [{"role": "user", "content": content}],
                "text": {"format": form},
                "max_output_tokens": self.max_output_tokens,
                "store": False,
            }
        content = [{"type": "text", "text": question.text}]
        content += [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True},
            },
            "max_tokens": self.max_output_tokens,
        }


@lru_cache(maxsize=16)
def _base64(image: bytes) -> str:
    return base64.b64encode(image).decode("ascii")
