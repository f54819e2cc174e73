import json
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stores.database import Connection, open_database
from stores.projections import (
    KEPT_SNIPPETS,
    DocumentOutcome,
    LayerChunk,
    Projection,
    Snippet,
    TokenSummary,
    commit_chunk,
    count_outcomes,
    done_chunks,
    find_projection,
    finish_projection,
    known_projections,
    open_projection,
    read_scores,
    read_snippets,
    read_summaries,
    snippet_bars,
)
from stores.results import open_run
from stores.samples import (
    Drawn,
    Sample,
    finish_sample,
    keep_documents,
    open_sample,
    read_documents,
)
from stores.workspace import Workspace

EMOTIONS = ("joy", "awe", "dread")
LAYERS = (2, 5)
SETTINGS: dict[str, Any] = {"emotions": EMOTIONS, "layers": LAYERS, "vectors": {"2": "a"}}
TABLES = ("projected", "document_scores", "token_summaries", "snippets")


def drawn(conn: Connection, n: int = 6, source: str = "notes", seed: int = 0) -> Sample:
    """A finished sample whose ranks are against the order in which its documents came."""
    sample = open_sample(conn, source, {"seed": seed}, open_run(conn, "sample", {}))
    texts = [Drawn(9 * n - i, f"f:{i}", f"text {i}", 6, f"sha:{i}", None) for i in range(n)]
    keep_documents(conn, sample.id, texts, n)
    return finish_sample(conn, sample.id, seen=n, skipped={})


def opened(conn: Connection, sample: Sample, **changes: Any) -> Projection:
    place = {"reader": "toy", "corpus": "toy"} | {
        key: changes.pop(key) for key in ("reader", "corpus") if key in changes
    }
    run_id = open_run(conn, "project notes", {})
    return open_projection(conn, sample, **place, settings=SETTINGS | changes, run_id=run_id)


def ids(conn: Connection, sample: Sample) -> list[int]:
    return [document.id for document in read_documents(conn, sample.id, 0, 1000)]


def done(documents: Sequence[int]) -> list[DocumentOutcome]:
    return [DocumentOutcome(document, "done", None, 80, cut=False) for document in documents]


def numbers(m: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(m, len(EMOTIONS))).astype(np.float32)


def summary(seed: int = 0) -> TokenSummary:
    rng = np.random.default_rng(seed)
    quantiles = np.sort(rng.normal(size=(3, 7)).astype(np.float32), axis=1)
    return TokenSummary(70, rng.normal(size=3), rng.random(3), quantiles)


def part(m: int, seed: int = 0, snippets: Sequence[Snippet] = ()) -> LayerChunk:
    scores = numbers(m, seed)
    return LayerChunk(scores, np.abs(scores[:, 0]), summary(seed), tuple(snippets))


def snippet(document: int, score: float, emotion: str = "joy", first: int = 50) -> Snippet:
    return Snippet(emotion, document, first, score, ("a", " b"), (0.5, 1.5))


def commit(
    conn: Connection, projection: Projection, chunk: int, documents: Sequence[int], **given: Any
) -> None:
    layers = {layer: part(len(documents), layer, **given) for layer in LAYERS}
    commit_chunk(conn, projection, chunk, done(documents), layers)


def rows(conn: Connection) -> dict[str, int]:
    return {table: conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}


def test_a_pass_is_opened_once_and_found_by_its_settings(conn: Connection) -> None:
    sample = drawn(conn)
    assert find_projection(conn, sample, "toy", "toy", SETTINGS) is None
    projection = opened(conn, sample)
    assert opened(conn, sample) == projection
    assert find_projection(conn, sample, "toy", "toy", SETTINGS) == projection
    assert (projection.emotions, projection.layers, projection.finished) == (
        EMOTIONS,
        LAYERS,
        False,
    )


def test_another_reader_corpus_sample_or_setting_is_another_pass(conn: Connection) -> None:
    sample = drawn(conn)
    passes = [
        opened(conn, sample),
        opened(conn, sample, reader="other"),
        opened(conn, sample, corpus="other"),
        opened(conn, sample, vectors={"2": "b"}),
        opened(conn, sample, layers=(2,)),
        opened(conn, drawn(conn, seed=1)),
    ]
    assert len({each.id for each in passes}) == len(passes)


def test_scores_come_back_by_position_and_to_the_bit(conn: Connection) -> None:
    sample = drawn(conn, 40)
    projection, every = opened(conn, sample), ids(conn, sample)
    assert every == sorted(every, reverse=True)  # by rank, and not as they came
    wild = numbers(40) * np.float32(10.0) ** np.arange(-20, 20, dtype=np.float32)[:, None]
    for chunk, first in enumerate(range(0, 40, 16)):
        here = slice(first, min(first + 16, 40))
        layer = LayerChunk(wild[here], wild[here, 1], summary(), ())
        commit_chunk(conn, projection, chunk, done(every[here]), {2: layer})
    found, scores, norms = read_scores(conn, projection.id, 2)
    assert found.tolist() == every
    assert (scores.astype(np.float32) == wild).all()
    assert (scores == wild).all()
    assert (norms.astype(np.float32) == wild[:, 1]).all()


def test_scores_are_spelled_as_short_as_they_can_be(conn: Connection) -> None:
    sample = drawn(conn, 1)
    projection = opened(conn, sample)
    scores = np.array([[0.1, -2.0, 1e-7]], np.float32)
    layer = LayerChunk(scores, scores[:, 0], summary(), ())
    commit_chunk(conn, projection, 0, done(ids(conn, sample)), {2: layer})
    spelled = conn.execute("SELECT scores FROM document_scores").fetchone()[0]
    assert spelled == "[0.1,-2.0,1e-07]"
    assert json.loads(spelled) == [0.1, -2.0, 1e-7]


def test_summaries_come_back_to_the_bit_by_chunk(conn: Connection) -> None:
    sample = drawn(conn)
    projection, every = opened(conn, sample), ids(conn, sample)
    kept = [summary(seed) for seed in range(3)]
    for chunk in (2, 0, 1):
        here = every[2 * chunk : 2 * chunk + 2]
        commit_chunk(
            conn, projection, chunk, done(here), {5: replace(part(2), summary=kept[chunk])}
        )
    for found, expected in zip(read_summaries(conn, projection.id, 5), kept, strict=True):
        assert found.tokens == expected.tokens
        for name in ("mean", "scatter", "quantiles"):
            one, other = getattr(found, name), getattr(expected, name)
            assert one.dtype == other.dtype
            assert (one == other).all()


def test_what_was_not_done_has_an_outcome_and_no_scores(conn: Connection) -> None:
    sample = drawn(conn, 5)
    projection, every = opened(conn, sample), ids(conn, sample)
    outcomes = [
        DocumentOutcome(every[0], "rejected", "too_short", 12, cut=False),
        DocumentOutcome(every[1], "done", None, 512, cut=True),
        DocumentOutcome(every[2], "failed", "not_finite", 99, cut=True),
        *done(every[3:]),
    ]
    commit_chunk(conn, projection, 0, outcomes, {2: part(3)})
    assert read_scores(conn, projection.id, 2)[0].tolist() == [every[1], *every[3:]]
    expected = {"done": 3, "not_finite": 1, "too_short": 1, "cut": 1}
    assert count_outcomes(conn, projection.id) == expected


def test_a_chunk_of_rejected_documents_leaves_nothing_but_their_outcomes(conn: Connection) -> None:
    sample = drawn(conn, 1)
    projection = opened(conn, sample)
    short = [DocumentOutcome(ids(conn, sample)[0], "rejected", "too_short", 3, cut=False)]
    none = np.empty((0, 3), np.float32)
    commit_chunk(conn, projection, 0, short, {2: LayerChunk(none, none[:, 0], None, ())})
    assert rows(conn) == {name: int(name == "projected") for name in TABLES}
    assert [each.shape for each in read_scores(conn, projection.id, 2)] == [(0,), (0, 3), (0,)]
    assert read_summaries(conn, projection.id, 2) == []
    finish_projection(conn, projection.id)


def test_a_chunk_that_is_there_is_refused_and_stays_as_it_was(conn: Connection) -> None:
    sample = drawn(conn)
    projection, every = opened(conn, sample), ids(conn, sample)
    commit(conn, projection, 0, every[:2])
    before = list(conn.iterdump())
    with pytest.raises(ValueError, match="chunk 0 is there already"):
        commit(conn, projection, 0, every[2:4])
    assert list(conn.iterdump()) == before
    assert done_chunks(conn, projection.id) == {0}


@pytest.mark.parametrize(
    "wrong",
    [
        LayerChunk(numbers(3), numbers(2)[:, 0], None, ()),
        LayerChunk(np.full((2, 3), np.nan, np.float32), numbers(2)[:, 0], None, ()),
        LayerChunk(numbers(2), numbers(1)[:, 0], None, ()),
    ],
    ids=["a row too many", "no numbers", "a norm too few"],
)
def test_of_a_chunk_that_is_not_sound_nothing_is_kept(conn: Connection, wrong: LayerChunk) -> None:
    """Outcomes and the first layer's rows are written before the second layer is refused."""
    sample = drawn(conn, 2)
    projection = opened(conn, sample)
    layers = {2: part(2), 5: wrong}
    with pytest.raises(ValueError, match=re.compile("zip|finite")):
        commit_chunk(conn, projection, 0, done(ids(conn, sample)), layers)
    assert rows(conn) == dict.fromkeys(TABLES, 0)
    assert done_chunks(conn, projection.id) == frozenset()


def test_a_reader_beside_sees_a_chunk_whole_or_not_at_all(
    conn: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = drawn(conn, 2)
    projection, seen = opened(conn, sample), []

    def look(_place: str) -> None:
        with closing(open_database(workspace.database, read_only=True)) as other:
            seen.append(rows(other))

    monkeypatch.setattr("stores.projections.reach", look)
    commit(conn, projection, 0, ids(conn, sample))
    assert seen == [dict.fromkeys(TABLES, 0)] * len(LAYERS)
    assert rows(conn)["document_scores"] == 4


def test_the_best_snippets_are_kept_whatever_the_order_of_the_chunks(conn: Connection) -> None:
    n = 4 * KEPT_SNIPPETS
    sample = drawn(conn, n)
    every = ids(conn, sample)
    scores = np.random.default_rng(1).permutation(n).tolist()
    best = sorted(range(n), key=lambda i: -scores[i])[:KEPT_SNIPPETS]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        projection = opened(conn, sample, order=order)
        for chunk in order:
            here = range(10 * chunk, 10 * chunk + 10)
            given = [snippet(every[i], float(scores[i])) for i in here]
            commit(conn, projection, chunk, [every[i] for i in here], snippets=given)
        found = read_snippets(conn, projection.id, 2)
        assert [each.document_id for each in found] == [every[i] for i in best]
        assert snippet_bars(conn, projection.id, 5) == {"joy": n - 10.0}


def test_of_equal_snippets_those_of_the_first_positions_are_kept(conn: Connection) -> None:
    sample = drawn(conn, 20)
    projection, every = opened(conn, sample), ids(conn, sample)
    for chunk in (1, 0):
        here = every[10 * chunk : 10 * chunk + 10]
        commit(conn, projection, chunk, here, snippets=[snippet(i, 1.0) for i in here])
    found = read_snippets(conn, projection.id, 2)
    assert [each.document_id for each in found] == every[:10]


def test_snippets_come_back_by_emotion_and_with_their_text(conn: Connection) -> None:
    sample = drawn(conn, 3)
    projection, every = opened(conn, sample), ids(conn, sample)
    torn = Snippet("awe", every[2], 7, 0.25, ('"', "\ud83d", "é\0\n"), (0.1, -1e-9, 3.0))
    given = [snippet(every[0], 1.0, "dread"), snippet(every[1], 2.0), torn]
    commit_chunk(conn, projection, 0, done(every), {2: part(3, snippets=given), 5: part(3)})
    found = read_snippets(conn, projection.id, 2)
    assert found == [given[1], replace(torn, tokens=('"', r"\ud83d", "é\0\n")), given[0]]
    assert read_snippets(conn, projection.id, 5) == []


def test_there_is_no_bar_before_as_many_snippets_as_are_kept(conn: Connection) -> None:
    sample = drawn(conn, KEPT_SNIPPETS)
    projection, every = opened(conn, sample), ids(conn, sample)
    commit(conn, projection, 0, every[:9], snippets=[snippet(i, 1.0) for i in every[:9]])
    assert snippet_bars(conn, projection.id, 2) == {}
    commit(conn, projection, 1, every[9:], snippets=[snippet(i, 0.5) for i in every[9:]])
    assert snippet_bars(conn, projection.id, 2) == {"joy": 0.5}


def test_a_pass_is_finished_once_every_document_has_an_outcome(conn: Connection) -> None:
    sample = drawn(conn, 4)
    projection, every = opened(conn, sample), ids(conn, sample)
    commit(conn, projection, 0, every[:3])
    with pytest.raises(ValueError, match="1 documents were not read"):
        finish_projection(conn, projection.id)
    assert known_projections(conn, "toy", "toy") == []
    commit(conn, projection, 1, every[3:])
    finish_projection(conn, projection.id)
    assert known_projections(conn, "toy", "toy") == [opened(conn, sample)]
    assert opened(conn, sample).finished


def test_of_each_source_the_newest_finished_pass_counts(conn: Connection) -> None:
    finished = {}
    for source, seed in (("b", 0), ("a", 0), ("b", 1)):
        sample = drawn(conn, 2, source, seed)
        projection = opened(conn, sample)
        commit(conn, projection, 0, ids(conn, sample))
        finish_projection(conn, projection.id)
        finished[source] = projection.id
    opened(conn, drawn(conn, 2, "c"))
    opened(conn, drawn(conn, 2, "a", 1))
    found = known_projections(conn, "toy", "toy")
    assert [(each.sample.source, each.id) for each in found] == sorted(finished.items())
    assert known_projections(conn, "toy", "other") == []


def test_passes_do_not_see_each_other(conn: Connection) -> None:
    sample = drawn(conn, KEPT_SNIPPETS)
    one, other = opened(conn, sample), opened(conn, sample, reader="other")
    every = ids(conn, sample)
    commit(conn, one, 0, every, snippets=[snippet(i, 1.0) for i in every])
    assert done_chunks(conn, other.id) == frozenset()
    assert snippet_bars(conn, other.id, 2) == {}
    assert count_outcomes(conn, other.id) == {"done": 0, "cut": 0}
    commit(conn, other, 0, every, snippets=[snippet(i, 2.0) for i in every])
    assert {each.score for each in read_snippets(conn, one.id, 2)} == {1.0}


def test_the_pass_that_was_asked_for_last_is_the_newest(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(f"2026-01-01T00:00:00.00{i}Z" for i in range(9))
    passes = []
    for seed in (0, 1):
        sample = drawn(conn, 2, seed=seed)
        passes.append(opened(conn, sample))
        commit(conn, passes[-1], 0, ids(conn, sample))
    monkeypatch.setattr("stores.projections.now_text", lambda: next(clock))
    for asked in (0, 1, 0):
        finish_projection(conn, passes[asked].id)
        assert [each.id for each in known_projections(conn, "toy", "toy")] == [passes[asked].id]
