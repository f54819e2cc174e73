"""Sizes are known without reading what has them."""

from pathlib import Path

from stores.activations import layer_path
from stores.arrays import chunk_path
from stores.database import Connection
from stores.sizes import chunk_file_bytes, file_bytes, receipt_bytes, text_lengths
from stores.workspace import Workspace
from tests.stores.corpora import plan_corpus, take, write


def test_lengths_are_characters_of_done_texts(conn: Connection) -> None:
    plan_corpus(conn)
    first, second, *_ = take(conn, 3)
    write(conn, first, "Grüße.")
    write(conn, second, "No.")
    ids = list(range(1, 3000))
    assert text_lengths(conn, "stories", ids) == {first.id: 6, second.id: 3}


def test_files_count_where_they_are(workspace: Workspace) -> None:
    def put(layer: int, chunk: int, size: int) -> Path:
        path = chunk_path(layer_path(workspace, "r", "toy", "stories", layer), chunk)
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
        return path

    put(1, 0, 10)
    put(2, 0, 5)
    put(1, 1, 3)
    assert file_bytes(workspace, "r", "toy", "stories", 0, (1, 2, 3)) == 15
    assert file_bytes(workspace, "r", "toy", "dialogues", 0, (1, 2, 3)) == 0


def test_a_chunk_file_holds_float32_and_a_checksum() -> None:
    assert chunk_file_bytes(512, 4096) == 512 * 4096 * 4 + 4


def test_nothing_written_has_no_bytes(conn: Connection) -> None:
    assert receipt_bytes(conn, "r", "toy", "stories") == 0
