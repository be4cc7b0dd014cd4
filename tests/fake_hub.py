"""A Hugging Face Hub on this machine: as much of its HTTP interface as huggingface_hub needs for small repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit


class FakeHub:
    """Repositories as {name: {path: bytes}}, those of datasets as datasets/NAME, which files were downloaded, and of
    which repositories and revisions somebody asked what they hold.

    The main branch is what `repositories` holds now; `revisions` holds other branches, tags and older commits of a
    repository as {name: {revision: {path: bytes}}}.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.revisions: dict[str, dict[str, dict[str, bytes]]] = {}
        self.downloaded: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.wrong_checksums: dict[str, str] = {}

    def commit_of(self, name: str, revision: str = "main") -> str:
        files = self.files_of(name, revision) or {}
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items())
        return hashlib.sha1(repr(content).encode()).hexdigest()

    def files_of(self, name: str, revision: str) -> dict[str, bytes] | None:
        known = {"main": self.repositories[name], **self.revisions.get(name, {})}
        return known.get(revision) or next((known[one] for one in known if self.commit_of(name, one) == revision), None)

    def move_main(self, name: str, files: dict[str, bytes]) -> None:
        """A new commit; the one before stays to be had by its hash."""
        self.revisions.setdefault(name, {})[self.commit_of(name)] = self.repositories[name]
        self.repositories[name] = files


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def say(self, content: object, status: int = 200) -> None:
        self.answer(json.dumps(content).encode(), status, Content_Type="application/json")

    def missing(self, what: str) -> None:
        self.answer(b"", 404, X_Error_Code=f"{what}NotFound", X_Error_Message=f"{what} not found")

    def repository(self) -> tuple[list[str], str]:
        """The parts of the path as for a model, and the name of the repository."""
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        kind = ""
        if parts[0] == "datasets":
            parts, kind = parts[1:], "datasets/"
        elif parts[:2] == ["api", "datasets"]:
            kind = "datasets/"
        return parts, kind + "/".join(parts[2:4] if parts[0] == "api" else parts[:2])

    def do_GET(self) -> None:
        parts, name = self.repository()
        if name not in self.hub.repositories:
            self.missing("Repo")
            return
        revision = (parts[3:4] if parts[0] != "api" else parts[5:6]) or ["main"]
        files = self.hub.files_of(name, revision[0])
        if parts[0] == "api":
            self.hub.asked.append((name, revision[0]))
        if files is None:
            self.missing("Revision")
        elif parts[0] != "api":  # owner/name/resolve/commit/path
            path = "/".join(parts[4:])
            if path not in files:
                self.missing("Entry")
                return
            if self.command == "GET":
                self.hub.downloaded.append(path)
            etag = hashlib.sha1(files[path]).hexdigest()
            self.answer(files[path], ETag=f'"{etag}"', X_Repo_Commit=self.hub.commit_of(name, revision[0]))
        elif parts[4:5] == ["tree"]:
            folder = "/".join(parts[6:])
            inside = {path for path in files if not folder or path.startswith(f"{folder}/")}
            folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {".", folder}
            if "recursive=True" not in self.path and "recursive=true" not in self.path:
                inside = {path for path in inside if str(PurePosixPath(path).parent) == (folder or ".")}
                folders = {path for path in folders if str(PurePosixPath(path).parent) == (folder or ".")}
            listing = [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
            self.say(listing + [self.entry(path, files[path]) for path in sorted(inside)])
        else:
            siblings = [{"rfilename": path} for path in sorted(files)]
            self.say({"id": name, "sha": self.hub.commit_of(name, revision[0]), "siblings": siblings})

    do_HEAD = do_GET

    def entry(self, path: str, data: bytes) -> dict[str, object]:
        """A file as listings have it; Parquet and compressed ones are large, so the Hub knows their SHA-256."""
        plain = {
            "type": "file",
            "path": path,
            "size": len(data),
            "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
        }
        if not path.endswith((".parquet", ".gz", ".zst")):
            return plain
        said = self.hub.wrong_checksums.get(path) or hashlib.sha256(data).hexdigest()
        return {**plain, "lfs": {"oid": said, "size": len(data), "pointerSize": 130}}

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def do_POST(self) -> None:
        parts, body = unquote(urlsplit(self.path).path).strip("/").split("/"), self.body()
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.hub.repositories.setdefault(name, {})
            self.say({"url": f"{self.hub.address}/{name}"})
            return
        _, name = self.repository()
        if name not in self.hub.repositories:
            self.missing("Repo")
        elif parts[4] == "paths-info":
            files, asked = self.hub.files_of(name, parts[5]) or {}, parse_qs(body.decode())["paths"]
            self.say([self.entry(path, files[path]) for path in asked if path in files])
        elif parts[4] == "preupload":
            files = json.loads(body)["files"]
            self.say({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = self.hub.commit_of(name)
            self.say({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.address}/{name}/commit/{commit}"})


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve a Hub until the end of the block; its `address` is what HF_ENDPOINT wants."""
    handler = type("ServingHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield handler.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
