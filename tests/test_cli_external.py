"""`project` as a user meets it: what it draws, says and leaves behind, and what it refuses."""

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.demo.external import write_sources
from stores.database import open_database
from stores.workspace import Workspace
from tests.test_cli import DEMO_MODEL, expect_error, run

TEXTS, SCRIPT = 12, "<script>document.title='pwned'</script>"
MODEL = ("--model", DEMO_MODEL, "--device", "cpu")
WRITTEN: Sequence[Sequence[object]] = (
    (*("generate", "stories", *MODEL, "--protocol", DEMO_MODEL / "protocol"),
     *("--emotions", "happy,sad,angry,calm", "--topics", 2)),
    ("generate", "neutral", *MODEL, "--protocol", DEMO_MODEL / "protocol", "--topics", 6),
    ("extract", *MODEL, "--layers", "2-3"),
    ("vectors", "build"),
)  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Notes, one of which holds a script, and chats."""
    paths = write_sources(tmp_path_factory.mktemp("sources"), documents=TEXTS, seed=0)
    lines = paths["notes"].read_text().splitlines()
    first = json.loads(lines[0])
    lines[0] = json.dumps({"text": first["text"].replace(" ", f" {SCRIPT} ")})
    paths["notes"].write_text("\n".join(lines))
    return paths


@pytest.fixture(scope="module")
def projected(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, Path]) -> Path:
    """A workspace in which both were projected."""
    folder = tmp_path_factory.mktemp("projected")
    for command in (*WRITTEN, *(("project", sources[name]) for name in ("notes", "chats"))):
        done = run(*command, workspace=folder)
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def workspace(projected: Path, tmp_path: Path) -> Path:
    return shutil.copytree(projected, tmp_path / "workspace")


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(open_database(Workspace(folder).database, read_only=True)) as conn:
        return [tuple(row) for row in conn.execute(query)]


def results(folder: Path) -> Path:
    (reader,) = [each for each in (folder / "results").iterdir() if each.is_dir()]
    return reader


def test_two_sources_leave_pages_figures_and_rows_that_hold_each_other(projected: Path) -> None:
    names = {path.name for path in results(projected).rglob("external.*")}
    assert {"external.snippets.notes.html", "external.snippets.chats.html"} <= names
    assert {"external.ranking.png", "external.ranking.svg", "external.json"} <= names
    assert rows(projected, "SELECT count(*) FROM documents") == [(2 * TEXTS,)]
    agreed = """SELECT count(*) FROM current_metrics
                WHERE metric = 'agreement.raw' AND subject = 'chats~notes'"""
    assert rows(projected, agreed) == [(1,)]
    assert run("doctor", workspace=projected).exit_code == 0
    assert "project notes" in run("status", workspace=projected).stdout


def test_a_script_in_a_text_is_shown_and_never_run(projected: Path) -> None:
    (page,) = results(projected).rglob("external.snippets.notes.html")
    shown = page.read_text(encoding="utf-8").lower()
    assert "script" in shown
    assert "<script" not in shown


def test_the_same_command_again_reads_and_changes_nothing(
    workspace: Path, sources: dict[str, Path]
) -> None:
    counted = "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM projected)"
    before = rows(workspace, counted)
    again = run("project", sources["chats"], workspace=workspace)
    assert again.exit_code == 0, again.output
    assert "chats: nothing was open" in again.stderr
    assert rows(workspace, counted) == before
    assert run("analyze", "external", workspace=workspace).stdout.startswith("external: unchanged")


def test_json_is_one_document_with_every_emotion(workspace: Path, sources: dict[str, Path]) -> None:
    told = run("project", sources["notes"], "--json", workspace=workspace)
    found = json.loads(told.stdout)
    assert {row["emotion"] for row in found["ranking"]} == {"happy", "sad", "angry", "calm"}
    assert found["source"]["documents"] == TEXTS
    assert {row["sources"] for row in found["agreement"]} == {"chats~notes"}


def test_the_sample_is_read_again_after_its_file_is_gone(
    workspace: Path, sources: dict[str, Path], tmp_path: Path
) -> None:
    moved = shutil.copy(sources["notes"], tmp_path / "letters.jsonl")
    assert run("project", moved, workspace=workspace).exit_code == 0
    Path(moved).unlink()
    expect_error(run("project", moved, workspace=workspace), 1, "no source", "--samples")
    elsewhere = run("project", "letters", "--layer", 2, workspace=workspace)
    assert elsewhere.exit_code == 0, elsewhere.output
    assert f"letters: {TEXTS} documents read" in elsewhere.stderr


def test_a_source_that_is_left_out_is_named_with_the_reason(
    workspace: Path, sources: dict[str, Path]
) -> None:
    told = run("project", sources["notes"], "--layer", 2, workspace=workspace)
    assert told.exit_code == 0, told.output
    (line,) = [line for line in told.stdout.splitlines() if line.startswith("left out: ")]
    assert "chats: not projected at layer 2" in line


def test_what_cannot_be_projected_is_refused_in_one_line(
    workspace: Path, sources: dict[str, Path], tmp_path: Path
) -> None:
    notes = sources["notes"]
    for code, words, arguments in (
        (1, ("no source", "pile, lmsys"), ("nowhere.jsonl",)),
        (2, ("empty",), ("",)),
        (2, ("no field 'body'", "text"), (notes, "--text-field", "body")),
        (2, ("--config", "hub"), (notes, "--config", "en")),
        (2, ("no slug",), (notes, "--name", "a~b")),
        (1, ("--max-tokens 50",), (notes, "--max-tokens", 50)),
        (2, ("layer 5",), (notes, "--layer", 5)),
        (1, ("nobody",), (notes, "--reader", "nobody")),
        (2, ("--judge-model",), (notes, "--judge", "openai")),
    ):
        expect_error(run("project", *arguments, workspace=workspace), code, *words)
    assert run("project", workspace=workspace).exit_code == 2
    expect_error(run("project", notes, workspace=tmp_path / "none"), 1, "no ledger")


def test_imported_vectors_say_that_nothing_reads_for_them(
    workspace: Path, sources: dict[str, Path], tmp_path: Path
) -> None:
    given = ("--reader", "theirs", "--corpus", "imported")
    for command in (
        ("vectors", "export", tmp_path / "set.npz"),
        ("vectors", "import", tmp_path / "set.npz", "--reader", "theirs"),
    ):
        done = run(*command, workspace=workspace)
        assert done.exit_code == 0, done.output
    refused = run("project", sources["notes"], *given, *MODEL, workspace=workspace)
    expect_error(refused, 1, "theirs", "were imported", "extract")


def test_what_holds_no_document_is_told(workspace: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"Letter {i}. " + "She left at noon. " * 20}) for i in range(6)]
    path = tmp_path / "letters.jsonl"
    path.write_text("\n".join([*lines, '{"other": 1}', "no json", '{"text": " "}']))
    told = run("project", path, workspace=workspace)
    assert told.exit_code == 0, told.output
    skipped = "letters: of 9 places seen these hold no document: empty 1, no_field 1, not_json 1"
    assert skipped in told.stderr
