"""Laws of made-up activations: exact numbers, and a ledger like any other."""

import numpy as np

from analyses.synthetic import (
    CORPUS,
    POOL,
    READER,
    plan_arrays,
    planted,
    story_labels,
    write_arrays,
    write_texts,
)
from stores.database import Connection
from stores.layers import read_layer
from stores.protocol import DEFAULT_PROTOCOL, load_protocol
from stores.rows import read_rows
from stores.workspace import Workspace


def test_planted_numbers_lose_nothing_in_float32() -> None:
    world = planted(3, 5, 7)
    rows = np.arange(4 * POOL)
    labels = story_labels(len(rows), 5)
    exact = world.centres.astype(np.float64)[labels] + world.noise.astype(np.float64)[rows % POOL]
    np.testing.assert_array_equal(world.stories(rows, labels), exact)
    means = np.stack([exact[labels == emotion].mean(axis=0) for emotion in range(5)])
    np.testing.assert_allclose(world.vectors(labels), means - means.mean(axis=0), atol=1e-12)


def test_layers_have_numbers_of_their_own_and_always_the_same() -> None:
    np.testing.assert_array_equal(planted(1, 5, 7).centres, planted(1, 5, 7).centres)
    assert (planted(1, 5, 7).centres != planted(2, 5, 7).centres).any()


def test_every_row_of_the_arrays_is_done_and_holds_what_was_planted(
    conn: Connection, workspace: Workspace
) -> None:
    protocol = load_protocol(DEFAULT_PROTOCOL)
    n, e = 400, len(protocol.names)
    write_texts(conn, protocol, n)
    plan_arrays(conn, workspace, protocol, layers=2, d_model=3, chunk_rows=64)
    worlds = [planted(layer, e, 3) for layer in range(2)]
    written = write_arrays(conn, workspace, worlds)
    assert written == 2 * (7 + 1) * (64 * 3 * 4 + 4)
    rows = read_rows(conn, READER, CORPUS, "stories")
    labels = story_labels(n, e)
    assert [row.emotion for row in rows] == [protocol.names[label] for label in labels]
    assert {row.status for row in rows} == {"done"}
    for layer, world in enumerate(worlds):
        found = read_layer(workspace, READER, CORPUS, "stories", layer)
        np.testing.assert_array_equal(found, world.stories(np.arange(n), labels))
    dialogues = read_layer(workspace, READER, CORPUS, "dialogues", 0)
    np.testing.assert_array_equal(dialogues, worlds[0].dialogues(np.arange(3)))
