import subprocess
import sys

import pytest

from stores.activations import open_arrays
from stores.database import Connection, digest
from stores.errors import NotReady
from stores.rows import (
    RowCount,
    activations_digest,
    count_rows,
    extracted_layers,
    layer_digests,
    pending_chunks,
    plan_rows,
    read_rows,
    read_texts,
    row_extent,
)
from stores.workspace import Workspace
from tests.conftest import ROOT
from tests.stores.arranged import (
    CHUNK_ROWS,
    CORPUS,
    HERE,
    LAYERS,
    READER,
    SETTINGS,
    add_texts,
    change_text,
    extract,
)


@pytest.fixture
def opened(conn: Connection, workspace: Workspace) -> Connection:
    """A ledger with ten done stories, arrays of four rows a chunk, and no rows yet."""
    add_texts(conn, 10)
    open_arrays(conn, workspace, *HERE, SETTINGS, CHUNK_ROWS)
    return conn


def statuses(conn: Connection) -> list[str]:
    return [row.status for row in read_rows(conn, *HERE)]


def receipts(conn: Connection) -> set[tuple[int, int]]:
    return {tuple(row) for row in conn.execute("SELECT layer, chunk FROM receipts")}


def test_rows_follow_the_order_of_text_ids(opened: Connection) -> None:
    assert plan_rows(opened, *HERE) == 10
    assert [(row.row, row.text_id) for row in read_rows(opened, *HERE)] == list(
        enumerate(range(1, 11))
    )


def test_planning_twice_adds_nothing(opened: Connection) -> None:
    plan_rows(opened, *HERE)
    before = read_rows(opened, *HERE)
    assert plan_rows(opened, *HERE) == 0
    assert read_rows(opened, *HERE) == before


def test_only_done_texts_get_a_row(opened: Connection) -> None:
    opened.execute("UPDATE stories SET status = 'rejected', text = NULL WHERE id IN (2, 5)")
    assert plan_rows(opened, *HERE) == 8
    assert [row.text_id for row in read_rows(opened, *HERE)] == [1, 3, 4, 6, 7, 8, 9, 10]


def test_planning_needs_open_arrays(conn: Connection) -> None:
    with pytest.raises(NotReady, match=r"reader toy never read corpus main; run .*extract"):
        plan_rows(conn, *HERE)


def test_new_texts_are_appended_and_only_the_last_chunk_is_redone(
    opened: Connection, workspace: Workspace
) -> None:
    extract(opened, workspace)
    add_texts(opened, 3, topic="snow")
    assert plan_rows(opened, *HERE) == 3
    assert row_extent(opened, *HERE) == 13
    assert [row.text_id for row in read_rows(opened, *HERE)] == list(range(1, 14))
    assert [(c.chunk, len(c.rows)) for c in pending_chunks(opened, *HERE, LAYERS)] == [
        (2, 4),
        (3, 1),
    ]


def test_a_changed_text_is_read_again_in_its_row_with_its_chunk_and_nothing_else(
    opened: Connection, workspace: Workspace
) -> None:
    extract(opened, workspace)
    change_text(opened, 6, "other words")
    plan_rows(opened, *HERE)
    changed = read_rows(opened, *HERE)[5]
    assert (changed.row, changed.text_sha, changed.tokens) == (5, digest("other words"), None)
    assert statuses(opened) == ["done"] * 4 + ["pending"] * 4 + ["done"] * 2
    assert receipts(opened) == {(layer, chunk) for layer in LAYERS for chunk in (0, 2)}
    assert extract(opened, workspace) == [1]
    assert statuses(opened) == ["done"] * 10


def test_a_text_that_is_no_longer_done_loses_its_row(
    opened: Connection, workspace: Workspace
) -> None:
    extract(opened, workspace)
    opened.execute("UPDATE stories SET status = 'pending', text = NULL WHERE id IN (2, 10)")
    assert plan_rows(opened, *HERE) == 0
    assert [row.row for row in read_rows(opened, *HERE)] == [0, 2, 3, 4, 5, 6, 7, 8]
    assert extract(opened, workspace) == [0, 2]
    opened.execute("UPDATE stories SET status = 'done', text = 'again' WHERE id IN (2, 10)")
    assert plan_rows(opened, *HERE) == 2
    assert [(row.row, row.text_id) for row in read_rows(opened, *HERE)][-2:] == [(9, 2), (10, 10)]


def test_pending_chunks_name_the_layers_that_are_missing(
    opened: Connection, workspace: Workspace
) -> None:
    extract(opened, workspace, [0])
    opened.execute("DELETE FROM receipts WHERE chunk = 1")
    found = pending_chunks(opened, *HERE, [0, 1])
    assert [(c.chunk, c.first_row, c.layers_missing) for c in found] == [
        (0, 0, (1,)),
        (1, 4, (0, 1)),
        (2, 8, (1,)),
    ]
    assert [row.text_id for row in found[1].rows] == [5, 6, 7, 8]


def test_a_receipt_for_fewer_rows_than_planned_does_not_count(
    opened: Connection, workspace: Workspace
) -> None:
    extract(opened, workspace)
    opened.execute("UPDATE receipts SET rows = 3 WHERE chunk = 0 AND layer = 2")
    assert [(c.chunk, c.layers_missing) for c in pending_chunks(opened, *HERE, LAYERS)] == [
        (0, (2,))
    ]
    assert extracted_layers(opened, *HERE) == [0]


def test_a_layer_is_extracted_when_every_planned_chunk_has_its_receipt(
    opened: Connection, workspace: Workspace
) -> None:
    assert extracted_layers(opened, *HERE) == []
    extract(opened, workspace)
    assert extracted_layers(opened, *HERE) == list(LAYERS)
    opened.execute("DELETE FROM receipts WHERE chunk = 2 AND layer = 0")
    assert extracted_layers(opened, *HERE) == [2]


def test_texts_are_read_by_id_and_those_not_done_are_left_out(opened: Connection) -> None:
    opened.execute("UPDATE stories SET status = 'failed', text = NULL WHERE id = 3")
    wanted = [1, 3, *range(100, 1400), 2]
    assert read_texts(opened, "stories", wanted) == {
        1: "stories joyful rain 0",
        2: "stories afraid rain 1",
    }


def test_rows_carry_the_labels_of_their_texts(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 2)
    add_texts(conn, 1, "dialogues", topic="tea")
    extract(conn, workspace)
    extract(conn, workspace, kind="dialogues")
    first, second = read_rows(conn, *HERE)
    (dialogue,) = read_rows(conn, READER, CORPUS, "dialogues")
    assert (first.emotion, second.emotion, second.topic) == ("joyful", "afraid", "rain")
    assert (dialogue.emotion, dialogue.topic, dialogue.tokens) == (None, "tea", 9)


def test_counts_tell_how_far_an_extraction_has_come(
    opened: Connection, workspace: Workspace
) -> None:
    extract(opened, workspace)
    opened.execute("UPDATE activations SET status = 'rejected', reason = 'too_short' WHERE row < 3")
    assert count_rows(opened) == [
        RowCount(READER, CORPUS, "stories", "done", None, 7),
        RowCount(READER, CORPUS, "stories", "rejected", "too_short", 3),
    ]


def test_the_digest_follows_all_that_vectors_are_built_from(
    opened: Connection, workspace: Workspace
) -> None:
    extract(opened, workspace)
    seen = [activations_digest(opened, READER, CORPUS)]
    for change in (
        "UPDATE receipts SET sha256 = 'sha256:other' WHERE layer = 2 AND chunk = 1",
        "UPDATE activations SET status = 'failed' WHERE row = 4",
        "UPDATE activations SET text_sha = 'sha256:other' WHERE row = 4",
        "UPDATE stories SET emotion = 'calm' WHERE id = 4",
        "UPDATE arrays SET settings = '{}'",
    ):
        opened.execute(change)
        seen.append(activations_digest(opened, READER, CORPUS))
    assert len(set(seen)) == len(seen)


def test_the_digest_of_a_layer_ignores_the_others(opened: Connection, workspace: Workspace) -> None:
    extract(opened, workspace, [0])
    before = activations_digest(opened, READER, CORPUS, [0])
    extract(opened, workspace, [0, 1])
    assert activations_digest(opened, READER, CORPUS, [0]) == before
    assert activations_digest(opened, READER, CORPUS, [0, 1]) != before


def test_digests_of_layers_are_those_of_each_alone(
    opened: Connection, workspace: Workspace
) -> None:
    extract(opened, workspace, [0, 1])
    found = layer_digests(opened, READER, CORPUS, [1, 0])
    assert list(found) == [1, 0]
    for layer, texts in found.items():
        assert texts == activations_digest(opened, READER, CORPUS, [layer])
    assert len(set(found.values())) == 2


def test_rows_can_be_counted_without_loading_zarr_or_numpy() -> None:
    script = "import sys, stores.rows; print({'zarr', 'numpy', 'sqlite_utils'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
