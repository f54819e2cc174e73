"""Runs a command in a process of its own that gets a signal in the middle, or dies at a place."""

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import line_of

WHOLE = 1e9
"""Seconds after which no command runs any more."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A process that runs one command over each workspace that it is told of, in a fork."""

    child: subprocess.Popen[str]

    def run(
        self, root: Path, *, place: str = "", number: int = signal.SIGKILL, seconds: float = WHOLE
    ) -> tuple[int, float]:
        """Exit code and seconds of one that gets a signal after so long, or dies at a place."""
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps([str(root), place, number, seconds]) + "\n")
        self.child.stdin.flush()
        code, took = line_of(self.child).split()
        return int(code), float(took)
