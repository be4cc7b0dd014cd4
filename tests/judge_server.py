"""A judge on this machine that speaks the API's shapes over HTTP, bills what it answers, and fails as services do.

It keeps its own count of every request, so that tests need not believe the program under test.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.odd_replies import ODDITIES

INPUT_TOKENS, OUTPUT_TOKENS = 900, 120
INPUT_PRICE, OUTPUT_PRICE = 1000, 2000  # nanodollars a token
FAULTS = ("429", "500", "timeout", "drop", "drop after", "slow", "refusal", "truncated", "malformed")
REFUSAL = "I cannot help with that."


@dataclass
class Arrival:
    """One request for an answer, as the server saw it. ``fault`` is "" for a plain answer."""

    question: str
    fault: str
    response_id: str = ""
    billed: int = 0


@dataclass
class JudgeServer:
    """Answers questions with ``decide(text, image urls) -> words that fit``.

    ``faults`` gives the chance of each fault; ``script`` are faults one after the other, again and again, instead.
    """

    decide: Callable[[str, list[str]], list[str]]
    faults: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    models: tuple[str, ...] = ("judge-1",)
    script: tuple[str, ...] = ()
    key: str = ""
    hang_seconds: float = 3.0
    batch_seconds: float = 0.0
    retry_after: str = "0.05"
    refuses: tuple[int, dict[str, Any]] | None = None
    redirects_to: str = ""
    ends_batches_as: str = "completed"
    batch_answers_share: float = 1.0
    spoils: Callable[[list[bytes]], list[bytes]] | None = None

    def __post_init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.headers_seen: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.sent: dict[str, bytes] = {}  # by response id, the body
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"judge": self}))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> JudgeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def billed(self) -> int:
        """Nanodollars for everything that was answered, whether or not the answer arrived."""
        return sum(arrival.billed for arrival in self.arrivals)

    def seen(self) -> Counter[str]:
        """How often each question arrived."""
        return Counter(arrival.question for arrival in self.arrivals)

    def arrived(self, body: dict[str, Any]) -> tuple[Arrival, int]:
        question = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self.lock:
            number = len(self.arrivals)
            dice = random.Random(f"{self.seed}/{number}").random()
            fault = self.script[number % len(self.script)] if self.script else ""
            for name, share in self.faults.items():
                if dice < share:
                    fault = name
                    break
                dice -= share
            arrival = Arrival(question, fault)
            self.arrivals.append(arrival)
            if len(self.bodies) < 50:
                self.bodies.append(body)
        return arrival, number

    def answer(self, body: dict[str, Any], arrival: Arrival, number: int, discount: float = 1.0) -> dict[str, Any]:
        """The response to a body in the shape that it asks for."""
        chat = "messages" in body
        parts = body["messages" if chat else "input"][0]["content"]
        text = next(part["text"] for part in parts if part["type"] in ("text", "input_text"))
        urls = [part["image_url"]["url"] if chat else part["image_url"] for part in parts if "image_url" in part]
        words = self.decide(text, urls)
        said = json.dumps(
            {"reasoning": "it shows", "concrete_words": words, "abstract_words": [], "global_words": ["unasked"]}
        )
        if arrival.fault == "truncated":
            said = said[: len(said) // 2]
        if arrival.fault == "malformed":
            said = '{"reasoning": "hm", "concrete_words": "all"}'
        arrival.response_id = f"resp_{number}"
        arrival.billed = round((INPUT_TOKENS * INPUT_PRICE + OUTPUT_TOKENS * OUTPUT_PRICE) * discount)
        refuses = arrival.fault == "refusal"
        if chat:
            message = {"role": "assistant", "content": None if refuses else said}
            if refuses:
                message["refusal"] = REFUSAL
            return {
                "id": arrival.response_id,
                "object": "chat.completion",
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS},
            }
        part = {"type": "refusal", "refusal": REFUSAL} if refuses else {"type": "output_text", "text": said}
        return {
            "id": arrival.response_id,
            "object": "response",
            "model": body["model"],
            "status": "incomplete" if arrival.fault == "truncated" else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if arrival.fault == "truncated" else None,
            "service_tier": body.get("service_tier", "default"),
            "output": [
                {"type": "reasoning", "summary": []},
                {"type": "message", "role": "assistant", "content": [part]},
            ],
            "usage": {
                "input_tokens": INPUT_TOKENS,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": OUTPUT_TOKENS,
            },
        }

    def batch_view(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch as it stands now; the work is done when its time has come."""
        with self.lock:
            if batch["status"] == "in_progress" and time.time() >= batch["created_at"] + self.batch_seconds:
                self._finish(batch)
            return {name: value for name, value in batch.items() if not name.startswith("_")}

    def _finish(self, batch: dict[str, Any]) -> None:
        lines = self.files[batch["input_file_id"]].splitlines()
        answered, errors = [], []
        for n, line in enumerate(lines):
            request = json.loads(line)
            entry = {"id": f"batch_req_{n}", "custom_id": request["custom_id"], "response": None, "error": None}
            dice = random.Random(f"{self.seed}/{batch['id']}/{n}").random()
            if self.ends_batches_as != "completed" and dice >= self.batch_answers_share:
                code = "batch_expired" if self.ends_batches_as == "expired" else "batch_cancelled"
                errors.append(entry | {"error": {"code": code, "message": "not executed"}})
                continue
            body = request["body"]
            arrival = Arrival(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), "")
            self.arrivals.append(arrival)
            response = self.answer(body, arrival, len(self.arrivals) - 1, discount=0.5)
            answered.append(entry | {"response": {"status_code": 200, "request_id": "r", "body": response}})
        for name, entries in (("output_file_id", answered), ("error_file_id", errors)):
            if entries:
                file_id = f"file-{len(self.files)}"
                written = [json.dumps(entry).encode() for entry in entries]
                if self.spoils and name == "output_file_id":
                    written, self.spoils = self.spoils(written), None
                self.files[file_id] = b"\n".join(written) + b"\n"
                batch[name] = file_id
        batch["status"] = self.ends_batches_as


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A killed client is no error of the server's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one piece, so that nobody waits for an acknowledgement
    disable_nagle_algorithm = True
    judge: JudgeServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        judge, path = self.judge, self.path.split("?")[0].removeprefix("/v1")
        if not self._known():
            return
        if path == "/models":
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in judge.models]
            self._send(200, {"object": "list", "data": models})
        elif path.startswith("/models/") and path[8:] in judge.models:
            self._send(200, {"id": path[8:], "object": "model", "created": 0, "owned_by": "x"})
        elif path == "/batches":
            views = [judge.batch_view(batch) for batch in reversed(judge.batches.values())]
            self._send(200, {"object": "list", "data": views, "has_more": False, "first_id": None, "last_id": None})
        elif found := re.fullmatch("/batches/(.+)", path):
            self._send(200, judge.batch_view(judge.batches[found[1]]))
        elif found := re.fullmatch("/files/(.+)/content", path):
            self._send(200, judge.files[found[1]], "application/octet-stream")
        else:
            self._send(404, {"error": {"message": f"no such thing: {path}", "code": "model_not_found"}})

    def do_POST(self) -> None:
        judge, path = self.judge, self.path.split("?")[0].removeprefix("/v1")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        judge.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        if not self._known():
            return
        if path in ("/responses", "/chat/completions"):
            self._judge(json.loads(data))
        elif path == "/files":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = BytesParser(policy=HTTP).parsebytes(head + data).iter_parts()
            content = next(part for part in parts if part.get_filename())
            with judge.lock:
                file_id = f"file-{len(judge.files)}"
                judge.files[file_id] = content.get_payload(decode=True)
            self._send(200, {"id": file_id, "object": "file", "bytes": 1, "created_at": 0, "filename": "x",
                             "purpose": "batch", "status": "processed"})  # fmt: skip
        elif path == "/batches":
            asked = json.loads(data)
            with judge.lock:
                batch = {
                    "id": f"batch_{len(judge.batches)}",
                    "object": "batch",
                    "endpoint": asked["endpoint"],
                    "completion_window": "24h",
                    "input_file_id": asked["input_file_id"],
                    "metadata": asked.get("metadata"),
                    "status": "in_progress",
                    "created_at": int(time.time()),
                    "output_file_id": None,
                    "error_file_id": None,
                }
                judge.batches[batch["id"]] = batch
            self._send(200, batch)
        else:
            self._send(404, {"error": {"message": f"no such thing: {path}"}})

    def _judge(self, body: dict[str, Any]) -> None:
        judge = self.judge
        arrival, number = judge.arrived(body)
        if body["model"] not in judge.models:
            self._send(404, {"error": {"message": f"no model {body['model']}", "code": "model_not_found"}})
        elif judge.refuses:
            self._send(judge.refuses[0], judge.refuses[1])
        elif judge.redirects_to:
            self._send(301, {}, location=judge.redirects_to)
        elif arrival.fault == "429":
            self._send(429, {"error": {"message": "slow down"}}, retry_after=judge.retry_after)
        elif arrival.fault == "500":
            self._send(500, {"error": {"message": "oops"}}, retry_after="0.02")
        elif arrival.fault == "drop":
            self.close_connection = True
            self.connection.close()
        else:
            response = judge.answer(body, arrival, number)
            if arrival.fault == "timeout":
                time.sleep(judge.hang_seconds)
            elif arrival.fault == "slow":
                time.sleep(0.2)
            odd = ODDITIES.get(arrival.fault)
            data = odd.body(response) if odd else json.dumps(response).encode()
            if odd and not odd.billed:
                arrival.billed, arrival.response_id = 0, ""
            else:
                judge.sent[arrival.response_id] = data
            if arrival.fault == "drop after":
                self.close_connection = True
                self.connection.close()
            else:
                self._send(200, data, share=odd.sent if odd else 1.0)

    def _known(self) -> bool:
        sent = self.headers.get("Authorization", "")
        if self.judge.key and sent != f"Bearer {self.judge.key}":
            self._send(401, {"error": {"message": f"wrong key: {sent}", "code": "invalid_api_key"}})
            return False
        return True

    def _send(
        self,
        status: int,
        content: Any,
        kind: str = "application/json",
        retry_after: str = "",
        location: str = "",
        share: float = 1.0,
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            for name, value in (("Retry-After", retry_after), ("Location", location)):
                if value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: round(len(data) * share)])
            self.wfile.flush()
            self.close_connection = share < 1 or self.close_connection
        except OSError:
            self.close_connection = True
