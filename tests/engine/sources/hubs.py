"""A hub on the loopback: data sets, gates, revisions, byte ranges, and lines that go dead."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
SMALL = 1_000
"""Bytes of a file that the hub serves itself; larger ones are at a signed address."""


@dataclass
class Repository:
    """Files of a data set at one commit; a gate lets the tokens in `granted` through."""

    files: dict[str, bytes]
    gated: bool = False
    granted: frozenset[str] = frozenset()
    commit: str = COMMIT


@dataclass
class Hub:
    """What the server has, what was fetched, and what goes wrong."""

    url: str
    repositories: dict[str, Repository]
    tokens: frozenset[str] = frozenset()
    dropped: set[str] = field(default_factory=set)
    """Files in front of whose bytes the line goes dead."""
    limited: set[str] = field(default_factory=set)
    """Files that were asked for too often."""
    refused: int | None = None
    """What the store answers, whatever is asked for."""
    fetched: list[str] = field(default_factory=list)
    """Files whose bytes were asked for, in that order."""


class Answering(BaseHTTPRequestHandler):
    """The part of the hub's interface that streaming a data set needs."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    def answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif found := re.match(r"/api/datasets/([^/]+/[^/]+)(?:/(.+))?$", path):
            self.describe(found[1], found[2] or "", token, body)
        elif found := re.match(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path):
            self.serve(found[1], found[2], found[3], token)
        elif found := re.match(r"/stored/([^/]+/[^/]+)/(.+)$", path):
            self.fetch(self.hub.repositories[found[1]], found[2])
        else:
            self.refuse(404)

    def repository(self, name: str, token: str, *, open_gate: bool) -> Repository | None:
        """The data set, or None once the refusal has been sent."""
        found = self.hub.repositories.get(name)
        if found is None:
            self.refuse(404 if token else 401, "RepoNotFound")
        elif found.gated and not open_gate and token not in found.granted:
            self.refuse(403 if token else 401, "GatedRepo")
        else:
            return found
        return None

    def describe(self, name: str, what: str, token: str, body: bytes) -> None:
        repository = self.repository(name, token, open_gate=not what.startswith("auth-check"))
        if repository is None:
            return
        kind, _, rest = what.partition("/")
        revision, _, folder = rest.partition("/")
        if kind in ("tree", "revision", "paths-info") and revision not in (
            "main",
            repository.commit,
        ):
            self.refuse(404, "RevisionNotFound")
        elif kind in ("tree", "paths-info"):
            wanted = json.loads(body)["paths"] if kind == "paths-info" and body else None
            self.reply(listing(repository.files, folder, wanted))
        else:
            siblings = [{"rfilename": path} for path in repository.files]
            gate = "auto" if repository.gated else False
            self.reply({"id": name, "sha": repository.commit, "gated": gate, "siblings": siblings})

    def serve(self, name: str, revision: str, path: str, token: str) -> None:
        if (repository := self.repository(name, token, open_gate=False)) is None:
            return
        if revision not in ("main", repository.commit):
            self.refuse(404, "RevisionNotFound")
        elif (payload := repository.files.get(path)) is None:
            self.refuse(404, "EntryNotFound")
        elif self.command == "GET" and len(payload) > SMALL:
            self.send_response(302)
            self.send_header("location", f"{self.hub.url}/stored/{name}/{path}?Signature=secret")
            self.send_header("content-length", "0")
            self.end_headers()
        else:
            self.ranged(payload, repository.commit)

    def fetch(self, repository: Repository, path: str) -> None:
        """From the store behind the hub, whose addresses are signed for a while."""
        self.hub.fetched.append(path)
        if self.hub.refused or path in self.hub.limited:
            self.refuse(self.hub.refused or 429)
        elif path in self.hub.dropped:
            self.close_connection = True
        else:
            self.ranged(repository.files[path], repository.commit)

    def ranged(self, payload: bytes, commit: str) -> None:
        first, last = 0, len(payload) - 1
        if found := re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("range", "")):
            first, last = int(found[1]), min(last, int(found[2] or last))
        if first > last:
            self.refuse(416)
            return
        part = payload[first : last + 1]
        self.send_response(206 if len(part) < len(payload) else 200)
        self.send_header("content-length", str(len(part)))
        self.send_header("content-range", f"bytes {first}-{last}/{len(payload)}")
        self.send_header("accept-ranges", "bytes")
        self.send_header("x-repo-commit", commit)
        self.send_header("etag", f'"{hashlib.sha1(payload).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(part)

    def refuse(self, status: int, code: str | None = None, message: str | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("x-error-code", code)
        if message:
            self.send_header("x-error-message", message)
        self.send_header("content-length", "0")
        self.end_headers()

    def reply(self, found: Any) -> None:
        payload = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def listing(files: dict[str, bytes], folder: str, wanted: list[str] | None) -> list[dict[str, Any]]:
    """Files below a folder, or those of the paths wanted, and the folders among them."""
    found: list[dict[str, Any]] = []
    for path, payload in files.items():
        below = path.startswith(f"{folder}/") if folder else True
        if (path in wanted) if wanted is not None else below:
            entry = {"type": "file", "path": path, "size": len(payload)}
            found.append({**entry, "oid": hashlib.sha1(payload).hexdigest()})
    folders = {path.rpartition("/")[0] for path in files} - {""}
    for path in sorted(folders):
        if (path in wanted) if wanted is not None else (not folder or path.startswith(folder)):
            found.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
    return found


@contextmanager
def serving(
    repositories: dict[str, Repository], tokens: frozenset[str] = frozenset()
) -> Iterator[Hub]:
    """A hub that answers on the loopback until the block ends."""
    handler = type("Bound", (Answering,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", repositories, tokens)
    handler.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
