"""Laws of what is ready: fingerprints follow the bytes, and what is missing is named."""

import numpy as np
import pytest

from analyses.readiness import STAGES, Place, unfinished_stage
from analyses.vectors import build_vectors
from stores.database import Connection
from stores.errors import NotReady
from stores.results import open_run
from stores.rows import Row
from stores.vectors import write_vectors
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
from tests.stores.arranged import IMPORTED


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


def test_imported_vectors_are_ready_with_the_variants_they_have(lab: Lab) -> None:
    numbers = np.ones((4, 3))
    for raw, denoised in ((numbers, None), (None, numbers), (numbers, numbers)):
        _import(lab, raw, denoised)
        fingerprints = {STAGES["vectors"](_place(lab, 0, 1)) for _ in range(2)}
        assert len(fingerprints) == 1
    with pytest.raises(NotReady, match=r"layers \[2\] .* vectors import FILE\.\.\. --reader toy"):
        STAGES["vectors"](_place(lab, 0, 1, 2))


def test_the_fingerprint_tells_variants_apart(lab: Lab) -> None:
    numbers = np.ones((4, 3))
    _import(lab, numbers, None)
    raw = STAGES["vectors"](_place(lab, 0))
    _import(lab, None, numbers)
    assert STAGES["vectors"](_place(lab, 0)) != raw


@pytest.mark.parametrize("stage", ["activations", "model"])
def test_what_needs_more_than_vectors_is_told_that_they_were_imported(lab: Lab, stage: str) -> None:
    write_texts(lab, "stories", story_plan(lab.protocol.names))
    _import(lab, np.ones((4, 3)), None)
    with pytest.raises(NotReady, match=r"reader toy were imported.* another --reader"):
        STAGES[stage](_place(lab, 0))
    with pytest.raises(NotReady, match="reader toy were imported"):
        build_vectors(lab.conn, lab.workspace, lab.protocol, READER, CORPUS, (0,))


def _import(lab: Lab, raw: Floats | None, denoised: Floats | None) -> None:
    for layer in (0, 1):
        write_vectors(
            *(lab.conn, lab.workspace, READER, CORPUS),
            emotions=lab.protocol.names,
            layer=layer,
            raw=raw,
            denoised=denoised,
            settings=IMPORTED,
            inputs="sha256:i",
            run_id=open_run(lab.conn, "vectors import", {}),
        )
