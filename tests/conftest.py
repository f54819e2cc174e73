"""Fixtures that every room shares: a fresh workspace, its open ledger, child processes."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stores.database import open_database
from stores.workspace import Workspace

ROOT = Path(__file__).parent.parent

StartChild = Callable[..., "subprocess.Popen[str]"]


def line_of(child: "subprocess.Popen[str]") -> str:
    """The next line that a child prints, without its end; empty when the child has ended."""
    return "" if child.stdout is None else child.stdout.readline().rstrip("\n")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def conn(workspace: Workspace) -> Iterator[sqlite3.Connection]:
    with closing(open_database(workspace.database)) as connection:
        yield connection


@pytest.fixture
def start_child() -> Iterator[StartChild]:
    """Starts a Python script (source, arguments) in a process of its own; the test may kill it."""
    children: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-u", "-c", script, *map(str, arguments)]
        child = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()
