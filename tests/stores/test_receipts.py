import pytest

from stores.database import Connection
from stores.errors import NotReady
from stores.receipts import chunk_length, drop_receipts, planned_chunks, written_layers
from stores.rows import read_rows
from stores.workspace import Workspace
from tests.stores.arranged import CHUNK_ROWS, HERE, add_texts, extract


@pytest.fixture
def extracted(conn: Connection, workspace: Workspace) -> Connection:
    """Ten stories in three chunks, read at layers 0 and 2."""
    add_texts(conn, 10)
    extract(conn, workspace)
    return conn


def receipts(conn: Connection) -> list[tuple[int, int]]:
    found = conn.execute("SELECT chunk, layer FROM receipts ORDER BY chunk, layer")
    return [(row["chunk"], row["layer"]) for row in found]


def pending(conn: Connection) -> list[int]:
    return [row.row for row in read_rows(conn, *HERE) if row.status == "pending"]


def test_chunks_are_counted_as_planned(extracted: Connection) -> None:
    assert chunk_length(extracted, *HERE) == CHUNK_ROWS
    assert planned_chunks(extracted, *HERE) == {0: 4, 1: 4, 2: 2}
    extracted.execute("DELETE FROM activations WHERE row IN (1, 8, 9)")
    assert planned_chunks(extracted, *HERE) == {0: 3, 1: 4}


def test_a_corpus_never_read_is_not_ready(conn: Connection) -> None:
    with pytest.raises(NotReady, match=r"reader toy never read corpus main; run `cli.py extract"):
        planned_chunks(conn, *HERE)


def test_a_layer_is_written_from_its_first_receipt_on(extracted: Connection) -> None:
    extracted.execute("DELETE FROM receipts WHERE layer = 2 AND chunk > 0")
    assert written_layers(extracted, *HERE) == [0, 2]


def test_a_chunk_is_queued_again_for_the_layers_given(extracted: Connection) -> None:
    drop_receipts(extracted, *HERE, 1, [2])
    assert receipts(extracted) == [(0, 0), (0, 2), (1, 0), (2, 0), (2, 2)]
    assert pending(extracted) == []


def test_rows_are_pending_once_no_layer_has_them(extracted: Connection) -> None:
    drop_receipts(extracted, *HERE, 1, [0, 2])
    assert pending(extracted) == [4, 5, 6, 7]
    drop_receipts(extracted, *HERE, 2)
    assert receipts(extracted) == [(0, 0), (0, 2)]
    assert pending(extracted) == [4, 5, 6, 7, 8, 9]
