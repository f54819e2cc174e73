"""Laws of what is ready: fingerprints follow the bytes, and what is missing is named."""

import numpy as np
import pytest

from analyses.readiness import STAGES, Place, unfinished_stage
from stores.database import Connection
from stores.errors import NotReady
from stores.rows import Row
from stores.workspace import Workspace
from tests.analyses.lab import (
    CORPUS,
    READER,
    Lab,
    open_lab,
    story_plan,
    write_activations,
    write_texts,
)
from tests.analyses.planted import Floats, planted_world


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    return open_lab(conn, workspace, planted_world(e=4, d=3))


def _place(lab: Lab, *layers: int) -> Place:
    return Place(lab.conn, lab.workspace, READER, CORPUS, layers)


def _ones(_: Row) -> Floats:
    return np.ones(3)


def test_activations_are_ready_when_every_layer_is(lab: Lab) -> None:
    write_texts(lab, "stories", story_plan(lab.protocol.names))
    with pytest.raises(NotReady, match=r"layers \[0\] .*24 of 24 stories are not extracted"):
        STAGES["activations"](_place(lab, 0))
    write_activations(lab, "stories", {0: _ones}, d_model=3)
    before = STAGES["activations"](_place(lab, 0))
    with pytest.raises(NotReady, match=r"layers \[1\] .*all 24 stories are extracted"):
        STAGES["activations"](_place(lab, 0, 1))
    write_activations(lab, "stories", {0: _ones, 1: _ones}, d_model=3)
    assert STAGES["activations"](_place(lab, 0)) == before
    assert STAGES["activations"](_place(lab, 0, 1)) != before


def test_rows_that_were_given_up_are_not_unfinished(lab: Lab) -> None:
    write_texts(lab, "stories", story_plan(lab.protocol.names))
    write_activations(lab, "stories", {0: _ones}, d_model=3, short=frozenset({1, 2}))
    assert unfinished_stage(lab.conn, READER, CORPUS).startswith("all 24 stories are extracted")


def test_texts_of_another_reader_or_corpus_do_not_count(lab: Lab) -> None:
    write_texts(lab, "stories", story_plan(lab.protocol.names))
    write_activations(lab, "stories", {0: _ones}, d_model=3)
    assert "24 of 24 stories are not extracted" in unfinished_stage(lab.conn, "other", CORPUS)
    assert "none of the stories is written" in unfinished_stage(lab.conn, READER, "other")
