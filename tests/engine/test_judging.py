"""A judge is asked each question once, its answer is kept as it came, and what fails stays open."""

import threading
from typing import Any

import numpy as np
import pytest

from engine.backends.base import Failure, Reply, Request
from engine.judging import (
    PROMPT,
    JudgingSettings,
    JudgingSummary,
    judge_snippets,
    plan_questions,
    read_score,
)
from engine.writers import Identity
from stores.database import Connection
from stores.errors import NotReady
from stores.judgements import read_judgements
from stores.projections import (
    DocumentOutcome,
    LayerChunk,
    Projection,
    Snippet,
    TokenSummary,
    commit_chunk,
    open_projection,
)
from stores.replies import orphaned_calls
from stores.results import open_run
from stores.samples import Drawn, finish_sample, keep_documents, open_sample, read_documents
from tests.engine.scripted import Script, ScriptedBackend, reply_to

EMOTIONS = ("calm", "glad", "angry", "sad")
LAYER = 2


class ScriptedJudge:
    """A writer whose backend answers from a script."""

    def __init__(self, script: Script) -> None:
        self.backend = ScriptedBackend(script)

    def identify(self) -> Identity:
        return Identity("scripted", "scripted-1", None, {})

    def open(self, conn: Connection, workers: int) -> ScriptedBackend:
        return self.backend


@pytest.fixture
def projection(conn: Connection) -> Projection:
    """Four emotions with two snippets each, out of eight documents."""
    run = open_run(conn, "test", {})
    sample = open_sample(conn, "notes", {"seed": 0}, run)
    drawn = [Drawn(i, f"n:{i}", f"text {i}", 6, f"sha{i}") for i in range(8)]
    keep_documents(conn, sample.id, drawn, 8)
    sample = finish_sample(conn, sample.id, seen=8, skipped={})
    settings = {"layers": [LAYER], "emotions": EMOTIONS}
    projection = open_projection(conn, sample, "reader", "corpus", settings, run)
    documents = read_documents(conn, sample.id, 0, 8)
    outcomes = [DocumentOutcome(each.id, "done", None, 40, False) for each in documents]
    snippets = tuple(
        Snippet(EMOTIONS[i % 4], each.id, 3, 1.0 + i, (f"passage {each.id}", " end"), (0.5, 1.5))
        for i, each in enumerate(documents)
    )
    scores = np.zeros((8, 4), np.float32)
    summary = TokenSummary(9, np.zeros(4), np.ones(4), np.zeros((4, 9), np.float32))
    chunk = LayerChunk(scores, np.ones(8, np.float32), summary, snippets)
    commit_chunk(conn, projection, 0, outcomes, {LAYER: chunk})
    return projection


def judge(conn: Connection, projection: Projection, script: Script, **asked: Any) -> JudgingSummary:
    settings = JudgingSettings(layer=LAYER, per_emotion=2, **asked)
    stop = threading.Event()
    judge = ScriptedJudge(script)
    return judge_snippets(
        conn, projection, judge, settings, progress=lambda _done, _all: None, stop=stop
    )


def fits(request: Request) -> Reply:
    return reply_to(request, str(request.key % 11))


def test_each_snippet_is_asked_about_its_own_emotion_and_another_once(
    conn: Connection, projection: Projection
) -> None:
    done = judge(conn, projection, fits)
    assert (done.answered, done.left) == (16, 0)
    found = read_judgements(conn, projection.id, LAYER)
    for emotion in EMOTIONS:
        asked = [each.question.asked for each in found if each.question.emotion == emotion]
        assert len(asked) == 4
        assert asked.count(emotion) == 2
    assert [each.score for each in found] == [each.id % 11 for each in found]
    assert orphaned_calls(conn) == 0


def test_a_second_run_asks_nothing(conn: Connection, projection: Projection) -> None:
    judge(conn, projection, fits)
    again = ScriptedJudge(fits)
    settings = JudgingSettings(layer=LAYER, per_emotion=2)
    judge_snippets(
        conn,
        projection,
        again,
        settings,
        progress=lambda _done, _all: None,
        stop=threading.Event(),
    )
    assert again.backend.asked == []


def test_what_failed_is_asked_again_and_what_is_hopeless_is_not(
    conn: Connection, projection: Projection
) -> None:
    asked: list[int] = []

    def fail(request: Request) -> Failure:
        asked.append(request.key)
        return Failure(key=request.key, reason="server error", final=request.key % 2 == 0)

    done = judge(conn, projection, fail)
    assert (done.answered, done.failures, done.left) == (0, 8, 8)
    assert dict(done.refused) == {"server error": 8}
    done = judge(conn, projection, fits)
    assert (done.answered, done.left) == (8, 0)
    assert sorted(asked) == list(range(1, 17))


def test_a_stop_keeps_what_was_answered(conn: Connection, projection: Projection) -> None:
    stop = threading.Event()

    def answer(request: Request) -> Reply:
        if request.key == 4:
            stop.set()
        return fits(request)

    settings = JudgingSettings(layer=LAYER, per_emotion=2)
    done = judge_snippets(
        conn,
        projection,
        ScriptedJudge(answer),
        settings,
        progress=lambda _done, _all: None,
        stop=stop,
    )
    assert done.stopped
    assert done.answered == 4
    assert judge(conn, projection, fits).answered == 12


def test_every_answer_is_kept_as_it_came_and_one_without_a_number_has_no_score(
    conn: Connection, projection: Projection
) -> None:
    done = judge(conn, projection, lambda request: reply_to(request, "I would rather not say."))
    assert dict(done.refused) == {"unparsed": 16}
    rows = conn.execute("SELECT kind, corpus, raw FROM replies").fetchall()
    assert {tuple(row) for row in rows} == {("snippets", "notes", "I would rather not say.")}
    assert {each.score for each in read_judgements(conn, projection.id, LAYER)} == {None}


def test_the_judge_sees_the_passage_and_one_emotion_alone(
    conn: Connection, projection: Projection
) -> None:
    scripted = ScriptedJudge(fits)
    settings = JudgingSettings(layer=LAYER, per_emotion=1)
    judge_snippets(
        conn,
        projection,
        scripted,
        settings,
        progress=lambda _done, _all: None,
        stop=threading.Event(),
    )
    prompts = [request.prompt for request in scripted.backend.asked]
    assert len(prompts) == 8
    for prompt in prompts:
        assert "passage " in prompt
        assert "{" not in prompt
        assert sum(f"feels: {e}" in prompt or f"in it feel: {e}\n" in prompt for e in EMOTIONS) == 1


def test_another_emotion_is_drawn_by_the_seed_and_never_the_own() -> None:
    snippets = [Snippet(name, i, 0, 1.0, ("a",), (1.0,)) for i in range(20) for name in EMOTIONS]
    first, same, third = (
        plan_questions(snippets, EMOTIONS, JudgingSettings(layer=0, per_emotion=20, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first == same != third
    assert all(
        a.asked == a.emotion != b.asked for a, b in zip(first[::2], first[1::2], strict=True)
    )
    assert {question.asked for question in first[1::2]} == set(EMOTIONS)


def test_without_a_snippet_the_judge_has_nothing_to_read(
    conn: Connection, projection: Projection
) -> None:
    settings = JudgingSettings(layer=LAYER + 1)
    with pytest.raises(NotReady, match="no snippet of notes is kept at layer 3"):
        judge_snippets(
            conn,
            projection,
            ScriptedJudge(fits),
            settings,
            progress=lambda _done, _all: None,
            stop=threading.Event(),
        )


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("7", 7),
        (" **10** ", 10),
        ("8/10", 8),
        ("8 out of 10.", 8),
        ("0", 0),
        ("7.0", 7),
        ("<think>maybe 3, maybe 4</think>\n5", 5),
        ("The passage fits well: 9", 9),
        ("Score: 6/10 because it is tense", 6),
        ("between 3 and 5", None),
        ("7.5", None),
        ("85", None),
        ("11", None),
        ("-3", None),
        ("100", None),
        ("", None),
        ("none", None),
    ],
)
def test_a_score_is_the_one_number_from_0_to_10_in_an_answer(
    answer: str, score: float | None
) -> None:
    assert read_score(answer) == score


def test_the_prompt_has_a_place_for_the_emotion_and_the_text() -> None:
    text = PROMPT.read_text(encoding="utf-8")
    assert text.count("{emotion}") == text.count("{text}") == 1
