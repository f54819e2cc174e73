"""A pass leaves the numbers of a plain computation, once each, and only what it was asked for."""

import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.budget import ExtractionBudget
from engine.loading import LazyModel
from engine.models import Model
from engine.packing import Segment
from engine.projection import job
from engine.projection.job import Directions
from engine.projection.passes import TokenProjector, TokenScores
from engine.projection.summaries import KEPT, WINDOW, merge_moments, summarise_tokens
from engine.tokens import encode_chat, encode_raw
from stores.database import Connection
from stores.errors import NotReady
from stores.projections import (
    KEPT_SNIPPETS,
    find_projection,
    known_projections,
    read_scores,
    read_snippets,
    read_summaries,
)
from stores.samples import Sample, read_documents
from tests.engine.tiny import save_checkpoint, text_of
from tests.projecting import (
    EMOTIONS,
    LAYERS,
    START,
    Plain,
    directions_of,
    draw_texts,
    project,
    read_plain,
    rows_of,
    settings_of,
    texts_of,
)

CLOSE = 1e-5


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen documents each, so that small samples have several."""
    monkeypatch.setattr(job, "CHUNK_SCORES", 16)
    monkeypatch.setattr(job, "SMALLEST_CHUNK", 16)


@pytest.fixture(scope="module")
def lazy(tiny_path: Path) -> LazyModel:
    return LazyModel(name=str(tiny_path), device="cpu")


@pytest.fixture
def sample(conn: Connection) -> Sample:
    return draw_texts(conn, texts_of(50))


class Unloadable(LazyModel):
    """A model that is known but must not be loaded."""

    @property
    def loaded(self) -> Model:
        raise AssertionError("the model was loaded")


def unloadable(lazy: LazyModel) -> LazyModel:
    return Unloadable(name=lazy.name, device="cpu")


def plain_readings(
    conn: Connection, model: Model, sample: Sample, form: str = "raw"
) -> dict[int, Plain]:
    """Every document that has something to pool, read alone, by its id."""
    encode = encode_raw if form == "raw" else encode_chat
    found = {}
    for document in read_documents(conn, sample.id, 0, 1000):
        tokens = encode(model, document.text)
        ids, first = tokens.ids[: tokens.content.stop], tokens.content.start + START
        if len(ids) > first:
            found[document.id] = read_plain(model, ids, first, LAYERS)
    return found


@pytest.mark.parametrize("form", ["raw", "chat"])
def test_scores_are_those_of_a_plain_computation_of_one_document_at_a_time(
    conn: Connection, sample: Sample, lazy: LazyModel, form: str
) -> None:
    summary = project(conn, lazy, format=form)
    plain, directions = plain_readings(conn, lazy.loaded, sample, form), directions_of(32)
    for layer in LAYERS:
        ids, scores, norms = read_scores(conn, summary.projection_id, layer)
        assert ids.tolist() == list(plain)
        streams = [plain[int(each)].streams[layer] for each in ids]
        length = np.array([np.linalg.norm(each, axis=1).mean() for each in streams])
        means = np.array([each.mean(axis=0) for each in streams])
        expected = means @ directions.directions[layer].T
        np.testing.assert_allclose(norms, length, rtol=CLOSE)
        assert np.abs(scores - expected).max() <= CLOSE * length.max()
        assert np.abs(expected).max() > 0.1 * length.max()


def test_token_summaries_are_those_of_all_pooled_tokens(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    summary = project(conn, lazy)
    plain, directions = plain_readings(conn, lazy.loaded, sample), directions_of(32)
    for layer in LAYERS:
        heat = [each.heat(layer, directions) for each in plain.values()]
        found = read_summaries(conn, summary.projection_id, layer)
        tokens, mean, sd = merge_moments(found)
        every = np.concatenate(heat, axis=1)
        assert tokens == every.shape[1]
        np.testing.assert_allclose(mean, every.mean(axis=1), atol=1e-4)
        np.testing.assert_allclose(sd, every.std(axis=1), rtol=1e-4)
        # the first chunk holds the first sixteen documents, less those that were too short
        first = np.concatenate(heat[: 16 - 2], axis=1).astype(np.float32)
        assert found[0].tokens == first.shape[1]
        np.testing.assert_allclose(found[0].quantiles, summarise_tokens(first).quantiles, atol=1e-4)


def best_windows_of(
    plain: dict[int, Plain], layer: int, probe: int
) -> list[tuple[float, int, int]]:
    """Score, document and first token of each document's best window, best first."""
    found = []
    for document, each in plain.items():
        heat = each.heat(layer, directions_of(32))[probe]
        means = [heat[i : i + WINDOW].mean() for i in range(len(heat) - WINDOW + 1)]
        if means:
            found.append((max(means), document, START + int(np.argmax(means))))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("form", ["raw", "chat"])
def test_snippets_are_the_best_windows_one_of_a_document(
    conn: Connection, sample: Sample, lazy: LazyModel, form: str
) -> None:
    summary = project(conn, lazy, format=form)
    plain = plain_readings(conn, lazy.loaded, sample, form)
    encode = encode_raw if form == "raw" else encode_chat
    texts = {each.id: each.text for each in read_documents(conn, sample.id, 0, 100)}
    for layer in LAYERS:
        found = read_snippets(conn, summary.projection_id, layer)
        assert len(found) == len(EMOTIONS) * KEPT_SNIPPETS
        for probe, emotion in enumerate(EMOTIONS):
            own = [each for each in found if each.emotion == emotion]
            best = best_windows_of(plain, layer, probe)[:KEPT_SNIPPETS]
            assert [(each.document_id, each.first) for each in own] == [
                (document, first) for _, document, first in best
            ]
            np.testing.assert_allclose([s.score for s in own], [b[0] for b in best], rtol=1e-4)
            for each in own:
                heat = plain[each.document_id].heat(layer, directions_of(32))[probe]
                own_heat = heat[each.first - START :][:WINDOW]
                np.testing.assert_allclose(each.heat, own_heat, atol=1e-4)
                ids = encode(lazy.loaded, texts[each.document_id])
                window = ids.ids[ids.content][each.first : each.first + WINDOW]
                assert "".join(each.tokens) == lazy.loaded.tokenizer.decode(list(window))


def test_no_snippet_is_shorter_than_a_window(conn: Connection, lazy: LazyModel) -> None:
    """Both have tokens to pool; one of them has a token less than a window."""
    model = lazy.loaded
    text = text_of(60)
    ends = [
        next(n for n in range(1, len(text)) if tokens_of(model, text[:n]) == START + wanted)
        for wanted in (WINDOW - 1, WINDOW)
    ]
    sample = draw_texts(conn, [text[:end] for end in ends])
    summary = project(conn, lazy)
    _, whole = read_documents(conn, sample.id, 0, 2)
    found = read_snippets(conn, summary.projection_id, 1)
    assert {each.document_id for each in found} == {whole.id}
    assert {(each.first, len(each.tokens), len(each.heat)) for each in found} == {
        (START, WINDOW, WINDOW)
    }


def tokens_of(model: Model, text: str) -> int:
    content: slice[int, int] = encode_raw(model, text).content
    return content.stop - content.start


def test_every_document_has_an_outcome_and_what_is_not_read_says_why(
    conn: Connection, lazy: LazyModel
) -> None:
    """One fits, one is cut, one was kept in part, one is too short, one is only just too short."""
    model, text = lazy.loaded, text_of(70)
    just = next(text[:n] for n in range(1, 999) if tokens_of(model, text[:n]) == START)
    sample = draw_texts(conn, [text_of(20), text, text_of(21), "ab", just])
    conn.execute("UPDATE documents SET characters = 90000 WHERE place = 'f:2'")
    summary = project(conn, lazy, max_tokens=60)
    rows = conn.execute("SELECT status, reason, tokens, cut FROM projected ORDER BY document_id")
    found = [tuple(row) for row in rows]
    assert found == [
        ("done", None, tokens_of(model, text_of(20)), 0),
        ("done", None, 60, 1),
        ("done", None, tokens_of(model, text_of(21)), 1),
        ("rejected", "too_short", tokens_of(model, "ab"), 0),
        ("rejected", "too_short", START, 0),
    ]
    assert tokens_of(model, text) > 60
    assert summary.outcomes == {"done": 3, "too_short": 2, "cut": 2}
    assert (summary.documents, sample.finished) == (5, True)


def test_what_is_read_of_a_long_document_is_its_beginning(
    conn: Connection, lazy: LazyModel
) -> None:
    draw_texts(conn, [text_of(70), text_of(20)])
    summary = project(conn, lazy, max_tokens=60)
    plain = plain_readings(conn, lazy.loaded, known_projections(conn, "toy", "toy")[0].sample)
    first = next(iter(plain.values())).heat(1, directions_of(32))
    scores = read_scores(conn, summary.projection_id, 1)[1]
    np.testing.assert_allclose(scores[0], first[:, : 60 - START].mean(axis=1), atol=1e-3)
    assert np.abs(scores[0] - first.mean(axis=1)).max() > 1e-2


@pytest.mark.parametrize("form", ["raw", "chat"])
def test_a_model_with_a_short_context_reads_as_much_as_it_can_hold(
    conn: Connection, lazy: LazyModel, form: str
) -> None:
    """The tiny model's context is 256 tokens, of which a template takes its own."""
    draw_texts(conn, [text_of(400), text_of(401, 3)])
    summary = project(conn, lazy, max_tokens=512, format=form)
    assert summary.outcomes == {"done": 2, "cut": 2}
    for (tokens,) in conn.execute("SELECT tokens FROM projected"):
        assert 240 <= tokens < 256


def test_a_document_of_many_chunks_hangs_on_none_of_them(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    """Larger chunks are another pass, with the same numbers."""
    one = project(conn, lazy).projection_id
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SMALLEST_CHUNK", 64)
        other = project(conn, lazy).projection_id
    assert one != other
    for layer in LAYERS:
        a, b = (read_scores(conn, each, layer) for each in (one, other))
        assert (a[0] == b[0]).all()
        np.testing.assert_allclose(a[1], b[1], atol=1e-5)
        at, bt = (read_summaries(conn, each, layer) for each in (one, other))
        assert (len(at), len(bt)) == (4, 1)
        assert merge_moments(at)[0] == merge_moments(bt)[0]
        assert [(s.emotion, s.document_id, s.first) for s in read_snippets(conn, one, layer)] == [
            (s.emotion, s.document_id, s.first) for s in read_snippets(conn, other, layer)
        ]


def test_another_budget_gives_the_same_numbers_but_for_rounding(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    budgets = []
    for reader, tokens in (("a", 64), ("b", 4000)):
        id_ = project(conn, lazy, reader=reader, tokens_per_batch=tokens).projection_id
        budgets.append([read_scores(conn, id_, layer) for layer in LAYERS])
    for (_, a, x), (_, b, y) in zip(*budgets, strict=True):
        assert np.abs(a - b).max() <= CLOSE * x.max()
        np.testing.assert_allclose(x, y, rtol=CLOSE)


def test_a_second_run_reads_nothing_and_loads_no_model(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    first = project(conn, lazy)
    assert (first.documents, first.stopped) == (50, False)
    kept, runs = rows_of(conn), conn.execute("SELECT count(*) FROM runs").fetchone()[0]
    again = project(conn, unloadable(lazy))
    assert (again.projection_id, again.documents, again.tokens) == (first.projection_id, 0, 0)
    assert again.outcomes == first.outcomes
    assert rows_of(conn) == kept
    assert conn.execute("SELECT count(*) FROM runs").fetchone()[0] == runs


def test_a_finished_pass_that_is_asked_for_again_is_the_newest(
    conn: Connection, lazy: LazyModel
) -> None:
    few, many = draw_texts(conn, texts_of(3)), draw_texts(conn, texts_of(4))
    for sample, model in ((few, lazy), (many, lazy), (few, unloadable(lazy))):
        summary = project(conn, model, sample=sample)
        (newest,) = known_projections(conn, "toy", "toy")
        assert (newest.id, newest.sample) == (summary.projection_id, sample)


def test_a_pass_that_lacks_its_last_word_alone_is_finished_without_a_model(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    project(conn, lazy)
    conn.execute("UPDATE projections SET finished_at = NULL")
    assert known_projections(conn, "toy", "toy") == []
    project(conn, unloadable(lazy))
    assert [each.finished for each in known_projections(conn, "toy", "toy")] == [True]


def test_a_stop_drops_the_chunk_at_hand_and_the_next_run_goes_on(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    whole = project(conn, lazy, reader="calm").projection_id
    stop, seen = threading.Event(), []

    def progress(reached: Any) -> None:
        seen.append(reached.done)
        if reached.done > 20:
            stop.set()

    halted = project(conn, lazy, progress=progress, stop=stop, tokens_per_batch=100)
    assert halted.stopped
    assert 20 < seen[-1] < 32
    own = halted.projection_id
    count = "SELECT count(*), max(chunk) FROM projected WHERE projection_id = ?"
    assert tuple(conn.execute(count, (own,)).fetchone()) == (16, 0)
    assert {each.reader for each in known_projections(conn, "toy", "toy")} == set()
    resumed = project(conn, lazy)
    assert (resumed.projection_id, resumed.documents) == (own, 34)
    assert numbers_of(conn, own)["projected"] == numbers_of(conn, whole)["projected"]
    outcomes = [
        row[0] for row in conn.execute("SELECT outcome FROM runs WHERE command = 'project notes'")
    ]
    assert outcomes == ["done", "stopped", "done"]


def test_a_stop_before_the_first_chunk_reads_nothing(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    stop = threading.Event()
    stop.set()
    summary = project(conn, lazy, stop=stop)
    assert (summary.stopped, summary.documents, summary.outcomes) == (
        True,
        0,
        {"done": 0, "cut": 0},
    )
    assert conn.execute("SELECT count(*) FROM projected").fetchone()[0] == 0


def numbers_of(conn: Connection, id_: int) -> dict[str, list[tuple[Any, ...]]]:
    """A pass's rows without its id."""
    return {
        table: [row[1:] for row in rows if row[0] == id_] for table, rows in rows_of(conn).items()
    }


def test_a_pass_in_many_runs_is_one_in_a_single_run_to_the_bit(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    """Stopped at every batch in turn."""
    whole = project(conn, lazy, reader="calm").projection_id
    runs, finished = 0, False
    while not finished:
        stop, limit = threading.Event(), 17 + runs

        def progress(reached: Any, stop: threading.Event = stop, limit: int = limit) -> None:
            if reached.done >= limit:
                stop.set()

        summary = project(conn, lazy, progress=progress, stop=stop)
        runs, finished = runs + 1, not summary.stopped
        assert runs < 9
    assert runs > 2
    assert numbers_of(conn, summary.projection_id) == numbers_of(conn, whole)


@pytest.mark.parametrize(
    "change",
    [
        {"directions": replace(directions_of(32), vectors={1: "other", 3: "other"})},
        {"layers": (1,)},
        {"start_token": START + 1},
        {"max_tokens": 79},
        {"format": "chat"},
        {"reader": "other"},
        {"corpus": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_vectors_settings_or_readers_are_another_pass(
    conn: Connection, lazy: LazyModel, change: dict[str, Any]
) -> None:
    draw_texts(conn, texts_of(4))
    one = project(conn, lazy)
    kept = numbers_of(conn, one.projection_id)
    other = project(conn, lazy, **change)
    assert other.projection_id != one.projection_id
    assert other.documents == 4
    assert numbers_of(conn, one.projection_id) == kept


def test_another_model_or_precision_is_another_pass(
    conn: Connection, lazy: LazyModel, tmp_path: Path
) -> None:
    draw_texts(conn, texts_of(4))
    gpt2 = LazyModel(name=str(save_checkpoint(tmp_path / "m", "gpt2")), device="cpu")
    models = [lazy, gpt2, replace(lazy, dtype="bfloat16")]
    assert len({project(conn, model).projection_id for model in models}) == 3


def test_the_settings_of_a_pass_say_all_that_its_numbers_hang_on(
    conn: Connection, lazy: LazyModel
) -> None:
    sample = draw_texts(conn, texts_of(4))
    project(conn, lazy)
    (found,) = known_projections(conn, "toy", "toy")
    assert found.settings == {
        "layers": [1, 3],
        "emotions": list(EMOTIONS),
        "vectors": {"1": "sha256:0.1", "3": "sha256:0.3"},
        "model": lazy.checkpoint.name,
        "weights_sha": lazy.checkpoint.weights_sha,
        "dtype": "float32",
        "format": "raw",
        "start_token": START,
        "max_tokens": 80,
        "chunk_documents": 16,
        "summaries": KEPT,
        "snippet": WINDOW,
    }
    expected = job.pass_settings(unloadable(lazy), settings_of(), directions_of(32))
    assert find_projection(conn, sample, "toy", "toy", expected) == found
    run = conn.execute("SELECT * FROM runs WHERE command = 'project notes'").fetchone()
    kept = json.loads(run["settings"])
    assert (run["reader"], run["corpus"], run["outcome"]) == ("toy", "toy", "done")
    assert (kept["batching"], kept["device"], kept["sample"]) == ("padded", "cpu", sample.digest)


def test_a_chunk_holds_fewer_documents_the_more_layers_there_are() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "CHUNK_SCORES", 512)
        sizes = [settings_of(layers=tuple(range(n))).chunk_documents for n in (1, 6, 60)]
    assert sizes == [512, 85, 16]


@pytest.mark.parametrize(
    "wrong",
    [{"layers": ()}, {"layers": (3, 1)}, {"start_token": -1}, {"max_tokens": START}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"layers|needed"):
        settings_of(**wrong)


def test_a_sample_that_is_not_complete_is_not_read(conn: Connection, lazy: LazyModel) -> None:
    sample = draw_texts(conn, texts_of(4), finished=False)
    with pytest.raises(NotReady, match="notes was not drawn to its end: run the same command"):
        project(conn, unloadable(lazy), sample=sample)
    assert conn.execute("SELECT count(*) FROM projections").fetchone()[0] == 0


def test_a_layer_without_directions_is_refused_before_anything_is_loaded(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    with pytest.raises(ValueError, match=r"no directions at layers \[2\]"):
        project(conn, unloadable(lazy), layers=(1, 2), directions=directions_of(32))


Spoil = Callable[[Sequence[Segment], TokenScores], None]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Spoil], None]]:
    """Lets a test change what comes from the device."""
    project_plainly = TokenProjector.project

    def wrap(change: Spoil) -> None:
        def spoiled(self: TokenProjector, segments: Any, wanted: Any, told: Any) -> Any:
            found = project_plainly(self, segments, wanted, told)
            if found is not None:
                change(segments, found)
            return found

        monkeypatch.setattr(TokenProjector, "project", spoiled)

    yield wrap


def test_a_document_without_usable_numbers_fails_alone(
    conn: Connection, lazy: LazyModel, spoil: Callable[[Spoil], None]
) -> None:
    """One overflows at the second layer in one token, one did not fit the memory."""
    draw_texts(conn, texts_of(8))
    plain = numbers_of(conn, project(conn, lazy, reader="calm").projection_id)

    def change(_segments: Sequence[Segment], scores: TokenScores) -> None:
        scores.scores[3][2, scores.bounds[1]] = np.inf
        scores.too_large.add(4)
        for layer in LAYERS:
            scores.scores[layer][:, scores.bounds[4] : scores.bounds[5]] = np.nan
        scores.norms[4] = np.nan

    spoil(change)
    summary = project(conn, lazy)
    assert summary.outcomes == {
        "done": 5,
        "not_finite": 1,
        "out_of_memory": 1,
        "too_short": 1,
        "cut": 0,
    }
    found = numbers_of(conn, summary.projection_id)
    assert len(found["document_scores"]) == 5 * len(LAYERS)
    assert set(found["document_scores"]) < set(plain["document_scores"])
    gone = {row[0] for row in found["projected"] if row[2] == "failed"}
    assert not gone & {row[2] for row in found["snippets"]}
    for (_, _, tokens, _, _), (_, _, before, _, _) in zip(
        found["token_summaries"], plain["token_summaries"], strict=True
    ):
        assert tokens < before


def test_documents_of_a_chunk_that_all_fail_leave_no_summary(
    conn: Connection, lazy: LazyModel, spoil: Callable[[Spoil], None]
) -> None:
    draw_texts(conn, texts_of(3))

    def change(_segments: Sequence[Segment], scores: TokenScores) -> None:
        for rows in scores.scores.values():
            rows[:] = np.nan

    spoil(change)
    summary = project(conn, lazy)
    assert summary.outcomes == {"done": 0, "not_finite": 3, "cut": 0}
    assert read_summaries(conn, summary.projection_id, 1) == []


def test_progress_counts_every_document_and_says_how_many_there_are(
    conn: Connection, sample: Sample, lazy: LazyModel
) -> None:
    seen: list[Any] = []
    summary = project(conn, lazy, progress=seen.append)
    assert {each.total for each in seen} == {50}
    assert all(a.done <= b.done for a, b in pairwise(seen))
    assert (seen[-1].done, seen[-1].tokens) == (50, summary.tokens)
    assert summary.elapsed_s > summary.model_s > 0


def test_the_budget_is_what_was_asked(
    conn: Connection, sample: Sample, lazy: LazyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = ExtractionBudget.__init__

    def note(self: ExtractionBudget, ceiling: int, **given: Any) -> None:
        asked.append(ceiling)
        plain(self, ceiling, **given)

    monkeypatch.setattr(ExtractionBudget, "__init__", note)
    project(conn, lazy, tokens_per_batch=123)
    assert asked == [123]


def test_memory_does_not_grow_with_the_sample(conn: Connection, lazy: LazyModel) -> None:
    """Arrays and objects; the scores of all tokens of the last two hundred are 5 MB and more."""
    draw_texts(conn, [text[:120] for text in texts_of(300)])
    rows = np.random.default_rng(0).normal(size=(171, 32))
    names = tuple(map(str, range(len(rows))))
    directions = Directions(names, dict.fromkeys(LAYERS, rows), dict.fromkeys(LAYERS, ""))
    peaks: dict[int, int] = {}

    def progress(reached: Any) -> None:
        peaks[reached.done // 100] = tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    summary = project(conn, lazy, directions=directions, progress=progress)
    tracemalloc.stop()
    assert summary.outcomes["done"] == 270
    assert peaks[3] - peaks[0] < 2**20
