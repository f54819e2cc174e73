"""`extract` as a user meets it: what it foretells, what it refuses, what it says."""

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.forecasting.machine import Machine, inspect_machine
from stores.database import open_database
from stores.workspace import Workspace
from tests.test_cli import DEMO_MODEL, expect_error, run

READ = ("extract", "--model", DEMO_MODEL, "--device", "cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a few finished stories."""
    folder = tmp_path_factory.mktemp("written")
    made = run(
        *("generate", "stories", "--model", DEMO_MODEL, "--protocol", DEMO_MODEL / "protocol"),
        *("--emotions", "happy,sad", "--topics", 3),
        workspace=folder,
    )
    assert made.exit_code == 0, made.output
    return folder


@pytest.fixture
def workspace(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "workspace")


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(open_database(Workspace(folder).database, read_only=True)) as conn:
        return [tuple(row) for row in conn.execute(query)]


def make_small(monkeypatch: pytest.MonkeyPatch, **room: Any) -> None:
    """A machine with less of something."""

    def inspect(folder: Path) -> Machine:
        return replace(inspect_machine(folder), **room)

    monkeypatch.setattr("engine.forecasting.forecast.inspect_machine", inspect)


def test_a_plan_tells_disk_memory_and_time_and_reads_nothing(workspace: Path) -> None:
    told = run(*READ, "--plan-only", workspace=workspace)
    assert told.exit_code == 0, told.output
    for thing in ("texts to read", "time", "disk", "host memory", "weights", "batch"):
        assert thing in told.stdout
    assert not (workspace / "data" / "activations").exists()
    assert rows(workspace, "SELECT count(*) FROM runs WHERE command = 'extract'") == [(0,)]
    document = json.loads(run(*READ, "--plan-only", "--json", workspace=workspace).stdout)
    assert document["texts"] == rows(workspace, "SELECT count(*) FROM activations")[0][0]
    assert document["refusal"] is None


def test_a_plan_binds_nobody_to_its_settings(workspace: Path) -> None:
    assert run(*READ, "--plan-only", workspace=workspace).exit_code == 0
    other = run(*READ, "--start-token", 10, "--chunk-rows", 4, workspace=workspace)
    assert other.exit_code == 0, other.output
    expect_error(run(*READ, workspace=workspace), 1, "start_token", "stored 10, now 50")


@pytest.mark.parametrize("room", ["disk", "memory"])
def test_what_cannot_fit_is_refused_before_a_weight_is_read(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("engine.loading.load_model", refuse)
    make_small(monkeypatch, **{room: 1000})
    expect_error(run(*READ, workspace=workspace), 1, room, "too little")
    planned = run(*READ, "--plan-only", workspace=workspace)
    assert planned.exit_code == 1
    assert "texts to read" in planned.stdout
    assert "too little" in planned.stderr
    assert not (workspace / "data" / "activations").exists()


def test_a_run_leaves_its_rate_for_the_next_forecast(workspace: Path) -> None:
    first = run(*READ, "--layers", "0,1", workspace=workspace)
    assert first.exit_code == 0, first.output
    (found,) = rows(workspace, "SELECT layer, n, value FROM metrics WHERE analysis = 'extraction'")
    assert found[0] == 1
    assert found[1] > 0 < found[2]
    document = json.loads(run(*READ, "--plan-only", "--json", workspace=workspace).stdout)
    assert (
        f"{found[1]:,} tokens" in document["rate_source"]
        or str(found[1]) in document["rate_source"]
    )


def test_what_a_run_did_is_one_document(workspace: Path) -> None:
    done = json.loads(run(*READ, "--json", workspace=workspace).stdout)
    assert done["outcomes"] == {"done": done["rows"]}
    again = json.loads(run(*READ, "--json", workspace=workspace).stdout)
    assert (again["rows"], again["chunks"]) == (0, 0)


def test_a_protocol_that_is_not_the_corpus_own_is_refused(workspace: Path) -> None:
    expect_error(
        run(*READ, "--protocol", "data/protocol", workspace=workspace), 1, "another protocol"
    )


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (("--layers", "9"), 2, ("layers", "0 to 5")),
        (("--attention", "fast"), 2, ("attention", "flex_attention")),
        (("--attention", "flex_attention"), 2, ("needs a card", "sdpa")),
        (("--dtype", "int8"), 2, ("dtype", "bfloat16")),
        (("--corpus", "absent"), 1, ("corpus", "main")),
        (("--reader", "a/b"), 2, ("reader",)),
    ],
)
def test_wrong_values_are_one_line(
    workspace: Path, asked: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    expect_error(run(*READ, *asked, workspace=workspace), code, *words)
