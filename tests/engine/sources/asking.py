"""A child process that opens data sets on a hub and tells what came: its libraries read where the
hub is when they are imported. Reads one request a line, answers one line; sleeps are only noted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

ROOT = Path(__file__).parents[3]


@dataclass
class Asker:
    """The child's ends."""

    questions: IO[str]
    answers: IO[str]

    def ask(self, token: str | None = None, take: int | None = None, **wanted: Any) -> Any:
        """What `open_hub` and `read` gave: settings and documents, or the error; and the sleep."""
        question = {"token": token, "take": take, "wanted": {"seed": 0, **wanted}}
        self.questions.write(json.dumps(question) + "\n")
        self.questions.flush()
        return json.loads(self.answers.readline())


@contextmanager
def asker(url: str, home: Path, **environment: str) -> Iterator[Asker]:
    """A child at work in `home`, for the hub at `url`; whatever it says on stderr is a fault."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    paths = {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.engine.sources.asking"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        env={**kept, **paths, "HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
    )
    assert child.stdin and child.stdout
    try:
        yield Asker(child.stdin, child.stdout)
    finally:
        complaints = child.communicate()[1]
    assert (child.returncode, complaints) == (0, "")


def answer(question: dict[str, Any]) -> dict[str, Any]:
    from engine.sources.hub import open_hub
    from stores.errors import EngineError

    os.environ.pop("HF_TOKEN", None)
    if question["token"] is not None:
        os.environ["HF_TOKEN"] = question["token"]
    found: list[dict[str, Any]] = []
    try:
        source = open_hub("theirs", **question["wanted"])
        for each in islice(source.read(), question["take"]):
            found.append(asdict(each))
    except EngineError as error:
        problem = {"error": str(error), "exit_code": error.exit_code}
        return {**problem, "documents": found}
    return {"settings": dict(source.settings), "whole": source.whole, "documents": found}


def main() -> None:
    """Answer until nothing more is asked."""
    import datasets

    slept: list[float] = []
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
    with patch("time.sleep", slept.append):
        for line in sys.stdin:
            slept.clear()
            answered = answer(json.loads(line))
            sys.stdout.write(json.dumps({**answered, "slept": sum(slept)}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
