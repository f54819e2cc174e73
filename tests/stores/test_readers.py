"""The names in a workspace."""

import pytest

from stores.corpora import open_corpus
from stores.database import Connection
from stores.errors import NotReady
from stores.readers import (
    analysable_layers,
    count_layers,
    import_settings,
    is_imported,
    known_corpora,
    known_readers,
    reader_settings,
    text_corpora,
)
from stores.vectors import forget_vectors
from stores.workspace import Workspace
from tests.stores.arranged import (
    CORPUS,
    IMPORTED,
    LAYERS,
    READER,
    SETTINGS,
    add_texts,
    extract,
    import_set,
)

THEIRS = "theirs"


def test_an_empty_workspace_has_no_names(conn: Connection) -> None:
    assert (known_corpora(conn), known_readers(conn), text_corpora(conn)) == ([], [], [])
    assert not is_imported(conn, READER)
    with pytest.raises(NotReady, match="extract --reader toy"):
        count_layers(conn, READER)


def test_a_reader_is_known_by_its_arrays_and_its_model_by_its_depth(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 3)
    extract(conn, workspace)
    assert (known_corpora(conn), known_readers(conn)) == ([CORPUS], [READER])
    assert count_layers(conn, READER) == SETTINGS.n_layers
    assert analysable_layers(conn, READER, CORPUS) == LAYERS
    assert not is_imported(conn, READER)


def test_an_imported_reader_is_known_by_its_vectors(conn: Connection, workspace: Workspace) -> None:
    add_texts(conn, 3)
    extract(conn, workspace)
    import_set(conn, workspace, THEIRS, "imported")
    assert known_readers(conn) == [THEIRS, READER]
    assert is_imported(conn, THEIRS)
    assert import_settings(conn, THEIRS, "imported") == IMPORTED
    assert import_settings(conn, READER, CORPUS) is None
    assert analysable_layers(conn, THEIRS, "imported") == (0, 2)
    assert count_layers(conn, THEIRS) == 7
    with pytest.raises(NotReady, match="theirs were imported, and with them no model"):
        reader_settings(conn, THEIRS)


def test_a_reader_knows_the_corpora_it_has_something_of(
    conn: Connection, workspace: Workspace
) -> None:
    add_texts(conn, 3)
    extract(conn, workspace)
    import_set(conn, workspace, THEIRS, "imported")
    assert known_corpora(conn) == ["imported", CORPUS]
    assert known_corpora(conn, READER) == [CORPUS]
    assert known_corpora(conn, THEIRS) == ["imported"]
    assert known_corpora(conn, "nobody") == []


def test_texts_are_written_in_every_corpus_but_those_of_imported_vectors_alone(
    conn: Connection, workspace: Workspace
) -> None:
    open_corpus(conn, "new", "sha256:p", {})
    add_texts(conn, 3)
    import_set(conn, workspace, THEIRS, "imported")
    import_set(conn, workspace, THEIRS, CORPUS)
    assert text_corpora(conn) == [CORPUS, "new"]


def test_a_layer_that_was_withdrawn_from_an_import_is_still_asked_for(
    conn: Connection, workspace: Workspace
) -> None:
    import_set(conn, workspace, THEIRS)
    forget_vectors(conn, workspace, THEIRS, CORPUS, 2)
    assert analysable_layers(conn, THEIRS, CORPUS) == (0, 2)


def test_a_depth_that_was_told_counts_before_any_that_was_assumed(
    conn: Connection, workspace: Workspace
) -> None:
    import_set(conn, workspace, THEIRS, "a", n_layers=9)
    import_set(conn, workspace, THEIRS, "b", n_layers=12)
    assert count_layers(conn, THEIRS) == 12
    import_set(conn, workspace, THEIRS, "c", n_layers=10, n_layers_assumed=False)
    assert count_layers(conn, THEIRS) == 10
