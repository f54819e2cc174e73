"""A hub of models on the loopback, and a child process that finds and loads SAEs there: its
libraries read where the hub is when they are imported. One request a line, one answer a line.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

from tests.engine.sources.hubs import COMMIT, Answering, Hub, Repository

ROOT = Path(__file__).parents[3]
TOKEN = "hf_" + "s" * 34
"""Of an account that no gate lets in."""

SHUT = -1


class AnsweringModels(Answering):
    """The same questions about models, which have other addresses than data sets."""

    def answer(self, body: bytes = b"") -> None:
        if self.hub.refused == SHUT:
            self.close_connection = True
            return
        if self.hub.refused:
            self.refuse(self.hub.refused)
            return
        self.path = self.path.replace("/api/models/", "/api/datasets/")
        self.path = re.sub(r"^(/[^/]+/[^/]+/resolve/)", r"/datasets\1", self.path)
        super().answer(body)

    def send_response(self, code: int, message: str | None = None) -> None:
        """The hub says of a file that is not there at which commit it is not there."""
        super().send_response(code, message)
        if code == 404 and "/resolve/" in self.path:
            self.send_header("x-repo-commit", COMMIT)


@dataclass
class ModelHub:
    """What it has and what was fetched; it can be shut down."""

    hub: Hub
    server: ThreadingHTTPServer

    def shut(self) -> None:
        """From now on nobody answers, on lines that are still open either."""
        self.hub.refused = SHUT
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def serving_models(repositories: dict[str, Repository]) -> Iterator[ModelHub]:
    handler = type("BoundModels", (AnsweringModels,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", repositories, frozenset({TOKEN}))
    handler.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    found = ModelHub(hub, server)
    try:
        yield found
    finally:
        found.shut()
        thread.join()


@dataclass
class Child:
    """The child's ends."""

    questions: IO[str]
    answers: IO[str]

    def ask(
        self,
        release: str,
        sae_id: str | None = None,
        *,
        load: bool = False,
        token: str | None = None,
        offline: bool = False,
    ) -> dict[str, Any]:
        """Its identity and fingerprint, and of its weights; or the error's words and class."""
        wanted = {"release": release, "sae_id": sae_id, "load": load}
        self.questions.write(json.dumps({**wanted, "token": token, "offline": offline}) + "\n")
        self.questions.flush()
        answered: dict[str, Any] = json.loads(self.answers.readline())
        return answered


@contextmanager
def asking_child(url: str, home: Path) -> Iterator[Child]:
    """A child at work in `home`, for the hub at `url`; whatever it says on stderr is a fault."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    paths = {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.engine.features.model_hub"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        env={**kept, **paths, "HOME": str(home), "OMP_NUM_THREADS": "1"},
    )
    assert child.stdin and child.stdout
    try:
        yield Child(child.stdin, child.stdout)
    finally:
        complaints = child.communicate()[1]
    assert (child.returncode, complaints) == (0, "")


def answer(question: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub import constants

    from engine.features.opening import describe_release, fingerprint, open_sae
    from stores.errors import EngineError

    os.environ.pop("HF_TOKEN", None)
    if question["token"]:
        os.environ["HF_TOKEN"] = question["token"]
    constants.HF_HUB_OFFLINE = question["offline"]
    try:
        identity = describe_release(question["release"], question["sae_id"])
        found: dict[str, Any] = {**asdict(identity), "layer": identity.layer}
        found["fingerprint"] = fingerprint(identity)
        if question["load"]:
            opened = open_sae(identity, device="cpu", dtype="bfloat16", mean_norm=8.0)
            found["scaled"] = opened.scaled
            found["dtype"] = str(opened.sae.W_dec.dtype)
            found["rows"] = opened.sae.W_dec[:2, :2].tolist()
            found["columns"] = opened.sae.W_enc[:2, :2].tolist()
    except EngineError as error:
        return {"error": str(error), "kind": type(error).__name__}
    return found


def main() -> None:
    """Answer until nothing more is asked."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
