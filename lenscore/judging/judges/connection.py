"""The connection to a service: the openai client, its key, and its errors as one line."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai

from lenscore.judging.judges.api import Api, plain
from lenscore.judging.judges.judge_spec import Failure
from lenscore.judging.judges.pauses import LONGEST_WAIT, PAUSE_TO_TELL, backoff, pause_seconds, retry_after
from lenscore.judging.judges.services import default_url
from lenscore.judging.spending.request_policy import RequestPolicy
from storage_layouts.errors import InputError

OPENAI_KEY = "OPENAI_API_KEY"
OTHER_KEY = "JUDGE_API_KEY"
"""Environment variable with the key of a server that is not OpenAI's; most need none."""
NO_KEY = "none"
MOST_BYTES = 1 << 24
"""A longer body is cut off: no reply to a question is so long."""
_MOST_SECONDS = 1e9
T = TypeVar("T")


@dataclass
class Wire:
    """Whether a byte of a request has left."""

    began: bool = False


@dataclass(frozen=True)
class Received:
    """A reply, unparsed.

    Attributes:
        status: HTTP status.
        text: the body without the key; bytes that are not UTF-8 are lone surrogates (surrogateescape).
        whole: the body is complete.
        location: target of a redirect, or "".
        waits: the reply says when to send the next request.

    """

    status: int
    text: str
    whole: bool = True
    location: str = ""
    waits: bool = False


_wire: ContextVar[Wire | None] = ContextVar("wire", default=None)


class Connection:
    """An AsyncOpenAI client that neither repeats requests nor follows redirects, and observes the service's pauses.

    Raises InputError if the key is missing. Neither the key nor a header is ever part of a message.

    Attributes:
        stop: the error to raise once the service asks for a pause longer than `LONGEST_WAIT`.

    """

    def __init__(self, url: str | None, policy: RequestPolicy, say: Callable[[str], None]) -> None:
        self._key = require_key(url)
        self._is_openai = url is None
        self._policy = policy
        self._say = say
        self._pause_until = 0.0
        self.stop: InputError | None = None
        hooks: dict[str, list[Any]] = {"request": [self._before], "response": [self._after]}
        self.client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=url,
            timeout=policy.request_timeout,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks=hooks, follow_redirects=False),
        )
        self.url = str(self.client.base_url).rstrip("/")

    async def check(self, model: str) -> None:
        """Raises InputError if the service cannot be reached, rejects the key or lacks the model. Costs nothing."""
        models = self.client.models.with_raw_response
        try:
            if self._is_openai:
                await self.patiently(lambda: models.retrieve(model))
                return
            text = (await self.patiently(models.list)).http_response.text
        except openai.APIError as error:
            raise self.refusal_of(error, model) from None
        try:
            known = [str(entry["id"]) for entry in json.loads(text)["data"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise InputError(
                f"--judge: {self.url}/models: found {self._plain(text)!r}, expected a list of models; is the address "
                "right? Most end in /v1"
            ) from None
        if model not in known:
            shown = ", ".join(known[:10]) or "none"
            raise InputError(f"--judge: {self.url} has no model {model!r}; it has {shown}")

    async def send(self, api: Api, body: dict[str, Any], wire: Wire) -> Received:
        """Send a request once, without parsing the reply.

        Raises:
            openai.APIConnectionError: no reply came. ``wire`` tells whether a byte of the request has left.

        """
        client = self.client
        resource = client.chat.completions if api == "chat" else client.responses
        token = _wire.set(wire)
        try:
            async with resource.with_streaming_response.create(**body) as response:
                data, whole = await self._body(response)
                return self._received(response.status_code, data, response.headers, whole)
        except openai.APIStatusError as error:
            return self._received(error.status_code, error.response.content, error.response.headers)
        finally:
            _wire.reset(token)

    async def patiently(self, send: Callable[[], Awaitable[T]]) -> T:
        """Send a free request, and repeat it while its error may pass. Raises openai.APIError or InputError."""
        for failures in itertools.count():
            while self.pause > 0:
                await asyncio.sleep(min(self.pause, 1.0))
            try:
                return await send()
            except openai.APIError as error:
                status = getattr(error, "status_code", 0)
                if self.stop is not None:
                    raise self.stop from None
                if failures >= self._policy.retries or not Failure("", status, str(error.code or "")).passes:
                    raise
            await asyncio.sleep(backoff(failures))
        raise AssertionError("the loop returns or raises")

    @property
    def pause(self) -> float:
        """Seconds until the next request is allowed."""
        return max(0.0, self._pause_until - time.monotonic())

    def refusal_of(self, error: openai.APIError, model: str) -> InputError:
        """A permanent error of the client, in one line."""
        if isinstance(error, openai.APIStatusError):
            location = error.response.headers.get("location", "")
            return self.refusal(error.status_code, self.plain(error), model, location)
        return InputError(f"--judge: no service answers at {self.url} ({self.plain(error)}); is the address right?")

    def refusal(self, status: int, said: str, model: str, location: str = "") -> InputError:
        """A permanent HTTP error, in one line."""
        if 300 <= status < 400:
            to = self._plain(location) or "an address that it does not name"
            return InputError(
                f"--judge: {self.url} sends the request on to {to} (status {status}), which would lose the question; "
                "expected the address itself"
            )
        if status in (401, 403):
            variable = OPENAI_KEY if self._is_openai else OTHER_KEY
            return InputError(f"--judge: {self.url} does not accept the key in {variable} ({said})")
        if status == 404:
            return InputError(
                f"--judge: {self.url} has no model {model!r} for this key, or the address is wrong ({said}); expected "
                "openai:MODEL, or http://host:port/v1#MODEL"
            )
        return InputError(f"--judge: {self.url} refuses: {said}")

    def plain(self, error: BaseException) -> str:
        """An error as one short line without the key."""
        text = str(error) or type(error).__name__
        if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
            text += f" {type(error.__cause__).__name__}: {error.__cause__}"
        return self._plain(text)

    def _plain(self, text: str) -> str:
        return plain(self._without_key(text))

    def _without_key(self, text: str) -> str:
        return text if self._key == NO_KEY else text.replace(self._key, "[key]")

    async def _body(self, response: Any) -> tuple[bytes, bool]:
        """The bytes of a reply, and whether it is complete."""
        pieces: list[bytes] = []
        size, until = 0, time.monotonic() + self._policy.request_timeout
        try:
            async for piece in response.iter_bytes():
                pieces.append(piece)
                size += len(piece)
                if size > MOST_BYTES or time.monotonic() > until:
                    return b"".join(pieces), False
        except Exception:  # whatever ends a body early: the bytes so far are recorded
            return b"".join(pieces), False
        return b"".join(pieces), True

    def _received(self, status: int, data: bytes, headers: Any, whole: bool = True) -> Received:
        text = self._without_key(data.decode("utf-8", "surrogateescape"))
        waits = retry_after(headers) is not None
        return Received(status, text, whole, headers.get("location", "") if 300 <= status < 400 else "", waits)

    async def _before(self, request: Any) -> None:
        wire = _wire.get()
        if wire is None:
            return

        async def trace(name: str, info: dict[str, Any]) -> None:
            if name.endswith("send_request_headers.started"):
                wire.began = True

        request.extensions["trace"] = trace

    async def _after(self, response: Any) -> None:
        wait = max(pause_seconds(response.headers), retry_after(response.headers) or 0.0)
        if wait > self.pause + 1.0 and wait > PAUSE_TO_TELL:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + min(wait, _MOST_SECONDS)))
            if wait > LONGEST_WAIT:
                self.stop = InputError(
                    f"--judge: {self.url} asks to wait for {wait:,.0f} seconds, until {at}; what was answered is "
                    "kept, repeat the command then"
                )
            else:
                self._say(f"{self.url} asks to wait for {wait:,.0f} seconds: no request until {at}")
        self._pause_until = max(self._pause_until, time.monotonic() + min(wait, LONGEST_WAIT))
        if response.status_code >= 300:
            await response.aread()  # here, where the client turns any error into its own type


def unsafe_key(url: str | None) -> str:
    """A warning if a key would be sent in clear text over the network, else "". ``url`` None: OpenAI's address."""
    address = url or default_url()
    host = urlsplit(address).hostname or ""
    here = host == "localhost" or host.endswith(".localhost") or host in (socket.gethostname(), socket.getfqdn())
    with contextlib.suppress(ValueError):
        here = here or ipaddress.ip_address(host).is_loopback
    if not address.startswith("http://") or here or require_key(url) == NO_KEY:
        return ""
    variable = OPENAI_KEY if url is None else OTHER_KEY
    return f"--judge: {address}: the key in {variable} is sent without encryption; expected https"


def require_key(url: str | None) -> str:
    """The key from the environment. Raises InputError without a key for OpenAI (``url`` None); others are optional."""
    if url is not None:
        return os.environ.get(OTHER_KEY, "").strip() or NO_KEY
    key = os.environ.get(OPENAI_KEY, "").strip()
    if not key:
        raise InputError(f"--judge: no key; set the environment variable {OPENAI_KEY}, also where the workers run")
    return key
