from dataclasses import replace

import pytest

from stores.chunks import write_chunk
from stores.database import Connection
from stores.errors import NotReady
from stores.layers import layer_receipts
from stores.receipts import (
    chunk_length,
    drop_receipts,
    mean_norms,
    planned_chunks,
    written_layers,
)
from stores.rows import pending_chunks, plan_rows, read_rows
from stores.workspace import Workspace
from tests.stores.arranged import (
    CHUNK_ROWS,
    CORPUS,
    HERE,
    LAYERS,
    READER,
    add_texts,
    blocks,
    extract,
    outcomes,
)


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


# the norm of row r at layer l is 1 + r + l


def test_the_mean_norm_of_a_layer_is_over_all_rows_and_kinds(
    extracted: Connection, workspace: Workspace
) -> None:
    stories = sum(range(1, 11))
    assert mean_norms(extracted, READER, CORPUS, ["stories"]) == {0: stories / 10, 2: 2 + 5.5}
    add_texts(extracted, 3, "dialogues")
    extract(extracted, workspace, kind="dialogues")
    assert mean_norms(extracted, READER, CORPUS) == pytest.approx(
        {0: (stories + 6) / 13, 2: 2 + (stories + 6) / 13}, rel=1e-12
    )


def test_only_rows_that_are_done_count_in_a_mean_norm(
    extracted: Connection, workspace: Workspace
) -> None:
    add_texts(extracted, 12)
    plan_rows(extracted, *HERE)
    (chunk,) = pending_chunks(extracted, *HERE, LAYERS)
    made = outcomes(chunk)  # rows 8 to 11, of which only row 9 is done
    for i in (0, 2, 3):
        made[i] = replace(made[i], status="failed", reason="not_finite")
    write_chunk(extracted, workspace, *HERE, chunk.chunk, blocks(chunk), made)
    expected = (sum(range(1, 9)) + 10) / 9
    assert mean_norms(extracted, READER, CORPUS, ["stories"]) == pytest.approx(
        {0: expected, 2: expected + 2}, rel=1e-12
    )


def test_a_layer_that_lacks_a_chunk_has_no_mean_norm(extracted: Connection) -> None:
    extracted.execute("DELETE FROM receipts WHERE layer = 2 AND chunk = 1")
    with pytest.raises(
        NotReady, match=r"layer 2 of main/stories .*lacks chunks; run .*--layers 2`"
    ):
        mean_norms(extracted, READER, CORPUS, ["stories"])
    assert mean_norms(extracted, READER, CORPUS, ["stories"], [0]) == {0: 5.5}


def test_receipts_without_norms_serve_vectors_and_have_no_mean_norm(extracted: Connection) -> None:
    extracted.execute("UPDATE receipts SET norm = NULL, done = NULL WHERE layer = 0 AND chunk = 2")
    assert len(layer_receipts(extracted, *HERE, 0)) == 3
    with pytest.raises(NotReady, match=r"layer 0 .* before norms were kept; .* another --reader"):
        mean_norms(extracted, READER, CORPUS, ["stories"])


def test_a_corpus_without_any_norm_is_not_ready(extracted: Connection) -> None:
    with pytest.raises(NotReady, match=r"reader toy never read corpus main"):
        mean_norms(extracted, READER, CORPUS)  # there are no dialogues
    extracted.execute("UPDATE receipts SET norm = NULL, done = 0")
    with pytest.raises(NotReady, match=r"no text of corpus main has a norm .*run `cli.py extract"):
        mean_norms(extracted, READER, CORPUS, ["stories"])
