"""What is wrong with samples and passes is found, and mended by withdrawing exactly that."""

from contextlib import closing

import pytest

from stores.damage import Finding
from stores.database import Connection, open_database
from stores.integrity import inspect, repair
from stores.results import open_run
from stores.samples import keep_documents, known_samples, open_sample
from stores.workspace import Workspace
from tests.stores.projecting import CHUNK, add_sample, begin_pass, drawn, project

TABLES = (
    *("samples", "documents", "projections", "projected", "document_scores", "token_summaries"),
    *("snippets", "judgements"),
)
PLACE = "toy/main/notes/pass 1"


def found(conn: Connection, workspace: Workspace, fault: bool = True) -> list[Finding]:
    things = ("document", "sample", "projection")
    every = inspect(conn, workspace, now=0.0)
    return [each for each in every if each.thing in things and each.fault == fault]


def told(conn: Connection, workspace: Workspace, fault: bool = True) -> list[tuple[str, str, str]]:
    return [(f.thing, f.place, f.problem) for f in found(conn, workspace, fault)]


def rows(conn: Connection) -> dict[str, list[tuple[object, ...]]]:
    """All rows but the time a pass was finished."""
    every = {name: conn.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}
    plain = {name: sorted(tuple(row) for row in kept) for name, kept in every.items()}
    return plain | {"projections": [row[:-1] for row in plain["projections"]]}


@pytest.fixture
def projected(conn: Connection) -> Connection:
    """Two samples, each with a finished pass."""
    for source in ("notes", "chats"):
        project(conn, begin_pass(conn, add_sample(conn, source=source)))
    return conn


def test_sound_samples_and_passes_have_no_finding(
    projected: Connection, workspace: Workspace
) -> None:
    assert told(projected, workspace) == told(projected, workspace, fault=False) == []
    with closing(open_database(workspace.database, read_only=True)) as reader:
        assert told(reader, workspace) == []


@pytest.mark.parametrize(
    ("text", "rank"), [("nodes 1 \0é", 1), ("notes 1", 1), (f"notes 3 \0é{'!' * 9}", 3)]
)
def test_a_changed_text_withdraws_its_sample_and_what_was_read_from_it_alone(
    projected: Connection, workspace: Workspace, text: str, rank: int
) -> None:
    before = rows(projected)
    change = "UPDATE documents SET text = ? WHERE sample_id = 1 AND rank = ?"
    projected.execute(change, (text, rank))
    findings = found(projected, workspace)
    assert [(f.thing, f.place) for f in findings] == [("document", f"notes a.txt:{rank}")]
    assert repair(projected, workspace, findings) == 1
    assert told(projected, workspace) == []
    assert [tuple(row) for row in projected.execute("SELECT source FROM samples")] == [("chats",)]
    assert all(len(kept) * 2 == len(before[name]) for name, kept in rows(projected).items())


CHUNK_DAMAGE = {
    "DELETE FROM document_scores WHERE layer = 2 AND document_id = 6": "no scores at a layer",
    "DELETE FROM token_summaries WHERE layer = 1 AND chunk = 1": "were not summed up",
    "UPDATE document_scores SET scores = '[1,2]' WHERE document_id = 6": "one for each emotion",
    "UPDATE document_scores SET scores = '[1,2,' WHERE document_id = 6": "one for each emotion",
    "UPDATE token_summaries SET moments = x'00' WHERE chunk = 1": "summary of tokens is torn",
    "UPDATE token_summaries SET quantiles = x'' WHERE chunk = 1": "summary of tokens is torn",
    "UPDATE snippets SET heat = '[1.0]' WHERE document_id = 6": "snippet is torn",
    "UPDATE snippets SET tokens = '[\"' WHERE document_id = 6": "snippet is torn",
}


@pytest.mark.parametrize("damage", CHUNK_DAMAGE)
def test_a_damaged_chunk_is_read_again_and_no_other(
    projected: Connection, workspace: Workspace, damage: str
) -> None:
    before = rows(projected)
    projected.execute(damage.replace("WHERE", "WHERE projection_id = 1 AND"))
    (finding,) = found(projected, workspace)
    assert finding.place == f"{PLACE} chunk 1"
    assert finding.problem.endswith(CHUNK_DAMAGE[damage])
    assert repair(projected, workspace, [finding]) == 1
    assert told(projected, workspace) == []
    unfinished = ("projection", PLACE, f"it was not finished ({CHUNK} documents are left)")
    assert told(projected, workspace, fault=False) == [unfinished]
    assert project(projected, begin_pass(projected, known_samples(projected)[0])) == [1]
    assert rows(projected) == before


def test_a_pass_that_lost_snippets_is_read_again_whole(
    projected: Connection, workspace: Workspace
) -> None:
    before = rows(projected)
    projected.execute("DELETE FROM snippets WHERE projection_id = 1 AND document_id < 3")
    findings = found(projected, workspace)
    assert [(f.place, f.problem) for f in findings] == [(PLACE, "12 snippets are lost")]
    assert repair(projected, workspace, findings) == 1
    assert told(projected, workspace) == []
    assert project(projected, begin_pass(projected, known_samples(projected)[0])) == [0, 1, 2]
    assert rows(projected) == before


def test_rows_of_no_document_that_is_done_are_removed(
    projected: Connection, workspace: Workspace
) -> None:
    before = rows(projected)
    projected.execute("INSERT INTO document_scores VALUES (1, 1, 5, 1.0, '[1,2,3]')")  # too short
    projected.execute("INSERT INTO snippets VALUES (1, 1, 'calm', 15, 0, 1.0, '[]', '[]')")
    projected.execute("INSERT INTO token_summaries VALUES (1, 1, 9, 1, zeroblob(48), zeroblob(12))")
    findings = found(projected, workspace)
    told_of = [(f.place, f.problem) for f in findings]
    assert told_of == [(PLACE, "3 rows belong to no document that is done")]
    repair(projected, workspace, findings)
    assert (told(projected, workspace), rows(projected)) == ([], before)


@pytest.mark.parametrize("finished", [True, False])
def test_a_chunk_that_lacks_a_document_is_read_again(
    projected: Connection, workspace: Workspace, finished: bool
) -> None:
    before = rows(projected)
    projected.execute("DELETE FROM projected WHERE projection_id = 1 AND document_id = 5")
    if not finished:
        projected.execute("UPDATE projections SET finished_at = NULL WHERE id = 1")
    findings = found(projected, workspace)
    problem = "1 documents were not read, yet it is called done"
    assert told(projected, workspace) == [("projection", f"{PLACE} chunk 1", problem)]
    repair(projected, workspace, findings)
    assert told(projected, workspace) == []
    assert project(projected, begin_pass(projected, known_samples(projected)[0])) == [1]
    assert rows(projected) == before


def test_what_was_begun_and_not_finished_is_a_warning(
    conn: Connection, workspace: Workspace
) -> None:
    project(conn, begin_pass(conn, add_sample(conn)), chunks=1)
    begun = open_sample(conn, "chats", {"characters": 30}, open_run(conn, "sample", {}))
    keep_documents(conn, begun.id, [drawn(0, "chats"), drawn(1, "chats")], 9)
    open_sample(conn, "nothing", {}, begun.id)  # none of its documents had a text
    assert told(conn, workspace) == []
    assert told(conn, workspace, fault=False) == [
        ("sample", "chats", "its drawing was not finished (2 documents so far)"),
        ("projection", PLACE, "it was not finished (6 documents are left)"),
    ]
