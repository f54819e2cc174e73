"""Laws of building vectors from stored activations."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.decomposition import PCA

from analyses import vectors
from analyses.methods.directions import EmotionMeans
from analyses.vectors import VectorsSummary, build_vectors
from stores.database import Connection
from stores.errors import FingerprintMismatch, NotReady
from stores.results import Metric, read_metrics
from stores.rows import Row, read_rows
from stores.vectors import read_vectors, vector_layers
from stores.workspace import Workspace
from tests.analyses.lab import (
    CORPUS,
    READER,
    Lab,
    dialogue_plan,
    open_lab,
    story_plan,
    write_activations,
    write_protocol,
    write_texts,
)
from tests.analyses.planted import Floats, planted_world

E, D = 8, 12
WORLD = planted_world(e=E, d=D, families=2)


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    return open_lab(conn, workspace, WORLD)


def _story(layer: int) -> Callable[[Row], Floats]:
    """The vector of the row's emotion, noise of its own, and a large common offset."""

    def make(row: Row) -> Floats:
        rng = np.random.default_rng([layer, row.row])
        own = WORLD.vectors[int(str(row.emotion)[1:])]
        return np.asarray(own + 0.3 * rng.normal(size=D) + 50.0)

    return make


def _dialogue(row: Row) -> Floats:
    scales = 2.0 ** -np.arange(D)
    return np.asarray(np.random.default_rng([99, row.row]).normal(size=D) * scales + 50.0)


def _fill(lab: Lab, layers: tuple[int, ...] = (2,), short: frozenset[int] = frozenset()) -> None:
    write_texts(lab, "stories", story_plan(lab.protocol.names))
    write_texts(lab, "dialogues", dialogue_plan())
    _extract(lab, layers, short)


def _extract(lab: Lab, layers: tuple[int, ...], short: frozenset[int] = frozenset()) -> None:
    stories = {layer: _story(layer) for layer in layers}
    write_activations(lab, "stories", stories, d_model=D, short=short)
    write_activations(lab, "dialogues", dict.fromkeys(layers, _dialogue), d_model=D)


def _build(lab: Lab, *layers: int, denoise: float = 0.5) -> VectorsSummary:
    place = (lab.conn, lab.workspace, lab.protocol, READER, CORPUS)
    return build_vectors(*place, layers or (2,), denoise=denoise)


def _metric(lab: Lab, name: str, layer: int = 2, subject: str | None = None) -> Metric:
    found = read_metrics(lab.conn, READER, CORPUS, "vectors", metric=name, layer=layer)
    return next(row for row in found if row.subject == subject)


def _rows(lab: Lab) -> list[Row]:
    return read_rows(lab.conn, READER, CORPUS, "stories")


def test_vectors_equal_those_computed_in_the_open(lab: Lab) -> None:
    """The oracle: all rows in memory, plain numpy, components by sklearn."""
    _fill(lab)
    assert _build(lab).built == (2,)
    rows = _rows(lab)
    texts = np.stack([_story(2)(row) for row in rows]).astype(np.float32).astype(np.float64)
    names = np.array([row.emotion for row in rows])
    means = np.stack([texts[names == name].mean(axis=0) for name in lab.protocol.names])
    expected = means - means.mean(axis=0)
    dialogues = np.stack([_dialogue(row) for row in rows[:12]]).astype(np.float32)
    neutral = PCA().fit(dialogues.astype(np.float64))
    k = int((np.cumsum(neutral.explained_variance_ratio_) < 0.5).sum()) + 1
    basis = neutral.components_[:k]
    place = (lab.conn, lab.workspace, READER, CORPUS, 2)
    raw, denoised = read_vectors(*place, "raw"), read_vectors(*place)
    assert raw.emotions == lab.protocol.names
    np.testing.assert_allclose(raw.vectors, expected, atol=1e-9)
    np.testing.assert_allclose(denoised.vectors, expected - expected @ basis.T @ basis, atol=1e-6)
    assert _metric(lab, "components").value == k
    assert _metric(lab, "components").n == 12
    assert _metric(lab, "neutral_variance").value == pytest.approx(
        neutral.explained_variance_ratio_[:k].sum(), abs=1e-6
    )


def test_rows_that_are_not_done_are_never_averaged_in(lab: Lab) -> None:
    _fill(lab, short=frozenset({0, 9, 17}))
    _build(lab, 2, denoise=0.0)
    used = [row for row in _rows(lab) if row.status == "done"]
    texts = np.stack([_story(2)(row) for row in used]).astype(np.float32).astype(np.float64)
    own = texts[[row.emotion == "e00" for row in used]].mean(axis=0)
    found = read_vectors(lab.conn, lab.workspace, READER, CORPUS, 2, "raw").vectors
    names = np.array([row.emotion for row in used])
    centre = np.mean([texts[names == name].mean(axis=0) for name in lab.protocol.names], axis=0)
    np.testing.assert_allclose(found[0], own - centre, atol=1e-9)
    assert _metric(lab, "texts").value == len(used) == len(_rows(lab)) - 3


def test_building_twice_builds_nothing(lab: Lab) -> None:
    _fill(lab)
    first, second = _build(lab), _build(lab)
    assert (second.built, second.unchanged) == ((), (2,))
    assert (second.run_id, lab.outcomes()) == (None, [("vectors build", "done")])
    assert first.run_id is not None


def test_another_share_of_variance_builds_anew(lab: Lab) -> None:
    _fill(lab)
    _build(lab)
    assert _build(lab, denoise=0.9).built == (2,)


def test_a_new_story_builds_anew(lab: Lab) -> None:
    _fill(lab)
    _build(lab)
    write_texts(lab, "stories", story_plan(lab.protocol.names, per_topic=3))
    _extract(lab, (2,))
    assert _build(lab).built == (2,)
    assert _metric(lab, "texts").value == 8 * 3 * 3


def test_a_further_layer_leaves_the_others_alone(lab: Lab) -> None:
    _fill(lab, layers=(0,))
    _build(lab, 0)
    before = read_metrics(lab.conn, READER, CORPUS, "vectors", layer=0)
    _extract(lab, (0, 2))
    summary = _build(lab, 0, 2)
    assert (summary.built, summary.unchanged) == ((2,), (0,))
    assert read_metrics(lab.conn, READER, CORPUS, "vectors", layer=0) == before
    assert _metric(lab, "reliability", layer=2).n == E
    assert _metric(lab, "reliability", layer=2, subject="e04").n == 6


def test_a_run_stopped_before_its_metrics_is_made_good(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(lab)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(vectors, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            _build(lab)
    assert vector_layers(lab.conn, READER, CORPUS) == [2]
    assert _build(lab).built == (2,)
    assert lab.outcomes() == [("vectors build", "stopped"), ("vectors build", "done")]
    assert _metric(lab, "texts").value == E * 6


def test_a_build_that_fails_half_way_leaves_no_thread(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(lab)
    before = set(threading.enumerate())

    def stop(*_: object) -> None:
        assert set(threading.enumerate()) > before
        raise KeyboardInterrupt

    monkeypatch.setattr(EmotionMeans, "add", stop)
    with pytest.raises(KeyboardInterrupt) as raised:
        _build(lab)
    assert set(threading.enumerate()) == before, raised


def test_an_emotion_without_a_story_is_named(lab: Lab) -> None:
    write_texts(lab, "stories", story_plan(lab.protocol.names), refused=frozenset({"e03", "e05"}))
    write_activations(lab, "stories", {0: _story(0)}, d_model=D)
    with pytest.raises(NotReady, match=r"2 of 8 emotions .* e03, e05"):
        _build(lab, 0, denoise=0.0)
    assert vector_layers(lab.conn, READER, CORPUS) == []


def test_emotions_that_were_never_planned_are_not_missed(lab: Lab) -> None:
    write_texts(lab, "stories", story_plan(["e01", "e06", "e04"]))
    write_activations(lab, "stories", {0: _story(0)}, d_model=D)
    _build(lab, 0, denoise=0.0)
    found = read_vectors(lab.conn, lab.workspace, READER, CORPUS, 0)
    assert found.emotions == ("e01", "e04", "e06")
    np.testing.assert_allclose(found.vectors.sum(axis=0), 0.0, atol=1e-9)


def test_one_emotion_is_not_enough(lab: Lab) -> None:
    write_texts(lab, "stories", story_plan(["e01"]))
    write_activations(lab, "stories", {0: _story(0)}, d_model=D)
    with pytest.raises(NotReady, match=r"stories of 1 emotions .* two or more"):
        _build(lab, 0, denoise=0.0)


def test_what_is_unfinished_is_named_with_its_number_of_rows(lab: Lab) -> None:
    with pytest.raises(NotReady, match=r"none of the stories is written .*generate stories"):
        _build(lab, 0)
    write_texts(lab, "stories", story_plan(lab.protocol.names))
    with pytest.raises(NotReady, match=r"48 of 48 stories are not extracted .*cli.py extract"):
        _build(lab, 0)
    write_activations(lab, "stories", {0: _story(0)}, d_model=D)
    with pytest.raises(NotReady, match=r"none of the dialogues is written .*generate neutral"):
        _build(lab, 0)


def test_without_dialogues_raw_vectors_can_still_be_built(lab: Lab) -> None:
    write_texts(lab, "stories", story_plan(lab.protocol.names))
    write_activations(lab, "stories", {0: _story(0)}, d_model=D)
    _build(lab, 0, denoise=0.0)
    place = (lab.conn, lab.workspace, READER, CORPUS, 0)
    np.testing.assert_array_equal(
        read_vectors(*place, "raw").vectors, read_vectors(*place, "denoised").vectors
    )
    with pytest.raises(StopIteration):
        _metric(lab, "components", layer=0)


def test_another_protocol_is_refused(lab: Lab) -> None:
    _fill(lab)
    other = write_protocol(lab.workspace.root / "other", planted_world(e=E, d=D, seed=5))
    with pytest.raises(FingerprintMismatch, match=r"emotions\.tsv"):
        build_vectors(lab.conn, lab.workspace, other, READER, CORPUS, (0,))
