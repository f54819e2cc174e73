"""The names in a workspace."""

import pytest

from stores.database import Connection
from stores.errors import NotReady
from stores.readers import count_layers, known_corpora, known_readers
from stores.workspace import Workspace
from tests.stores.arranged import CORPUS, READER, SETTINGS, add_texts, extract


def test_an_empty_workspace_has_no_names(conn: Connection) -> None:
    assert (known_corpora(conn), known_readers(conn)) == ([], [])
    with pytest.raises(NotReady, match="extract --reader toy"):
        count_layers(conn, READER)


def test_a_reader_is_known_by_its_arrays_and_its_model_by_its_depth(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 3)
    extract(conn, workspace)
    assert (known_corpora(conn), known_readers(conn)) == ([CORPUS], [READER])
    assert count_layers(conn, READER) == SETTINGS.n_layers
