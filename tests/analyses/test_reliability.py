"""Laws of the rows and the figure of reliability: what planted stories must give."""

from collections.abc import Sequence
from contextlib import closing
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from analyses import reliability
from analyses.base import home_of, run_analysis
from analyses.figures import render
from analyses.keeping import Rows, read_rows
from analyses.reliability import ANALYSIS, draw, run
from stores.database import Connection, open_database
from stores.errors import NotReady, StoreCorrupt
from stores.results import Metric, read_metrics
from stores.workspace import Workspace
from tests.analyses.halving import LAYER, WORLD, E, N, Recipe, fill, known
from tests.analyses.lab import CORPUS, READER, TOPICS, Lab, open_lab, store_vectors, story_plan
from tests.conftest import StartChild, line_of

# Says that it reads, waits to be killed, and otherwise goes on to the end.
CHILD = """
import sys
from contextlib import closing
from pathlib import Path
from analyses.base import run_analysis
from analyses.methods.reliability import CellSums
from analyses.reliability import ANALYSIS
from stores.database import open_database
from stores.protocol import load_protocol
from stores.workspace import Workspace
from tests.analyses.lab import Lab

add = CellSums.add

def slowly(self, *given):
    print("reading", flush=True)
    sys.stdin.readline()
    add(self, *given)

CellSums.add = slowly
workspace = Workspace(Path(sys.argv[1]))
with closing(open_database(workspace.database)) as conn:
    lab = Lab(conn, workspace, load_protocol(workspace.root / "protocol"))
    run_analysis(ANALYSIS, lab.inputs(2, seed=8))
"""


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    return open_lab(conn, workspace, WORLD)


def published(lab: Lab, seed: int = 7) -> Rows:
    inputs = lab.inputs(LAYER, seed=seed)
    run_analysis(ANALYSIS, inputs)
    return read_rows(home_of(inputs), ANALYSIS.name)


def value(rows: Rows, name: str, subject: str | None = None) -> float:
    [found] = [row for row in rows.select(name, LAYER) if row.subject == subject]
    assert found.value is not None
    return found.value


def test_planted_stories_give_the_known_reliability_and_its_curve(lab: Lab) -> None:
    rows = published(fill(lab, Recipe()))
    for name in ("reliability", "reliability.topics", f"reliability[{N}]"):
        assert value(rows, name) == pytest.approx(known(0.5, 1.0 / N), abs=0.03)
    for size in (2, 4, 8, 16):
        assert value(rows, f"reliability[{size}]") == pytest.approx(
            known(0.5, 1.0 / size), abs=0.06
        )
    assert abs(value(rows, "reliability.shuffled")) < 0.1
    assert value(rows, "self_cosine.9_stories") == pytest.approx(
        (known(0.5, 1.0 / 9) / known(0.5, 1.0 / N)) ** 0.5, abs=0.03
    )
    gain = value(rows, "doubling_gain", "8 to 16")
    assert gain == pytest.approx(value(rows, "reliability[16]") - value(rows, "reliability[8]"))


def test_the_number_of_stories_lies_on_the_line_through_all_of_them(lab: Lab) -> None:
    """Signal 0.2 against noise 1: .9 takes 45 stories, of which there are 24."""
    rows = published(fill(lab, Recipe(emotion=0.2)))
    r = value(rows, "reliability")
    for target in (0.9, 0.95):
        [needed] = rows.select(f"stories_for[{target:g}]")
        assert needed.value == ceil(N * target / (1.0 - target) * (1.0 - r) / r)
        assert needed.threshold == N
        assert needed.passed == (needed.value <= N)
        assert needed.ci_low is not None
        assert needed.ci_high is not None
        assert needed.ci_low <= needed.value <= needed.ci_high
    assert value(rows, "stories_for[0.9]") == pytest.approx(45, abs=8)


def test_without_signal_no_number_of_stories_is_enough(lab: Lab) -> None:
    """The interval's high end is open, and what is asked for is not reached."""
    rows = published(fill(lab, Recipe(emotion=0.0)))
    [needed] = rows.select("stories_for[0.9]")
    assert needed.ci_high is None
    assert needed.passed is False


def test_every_emotion_has_its_own_row_and_the_mean_is_theirs(lab: Lab) -> None:
    rows = published(fill(lab, Recipe(), short=frozenset({0, 8})))
    for name in ("reliability", "reliability.topics"):
        own = [row for row in rows.select(name) if row.subject]
        assert [row.subject for row in own] == list(lab.protocol.names)
        assert [row.n for row in own] == [N - 2] + [N] * (E - 1)
        mean = np.mean([value(rows, name, row.subject) for row in own])
        assert value(rows, name) == pytest.approx(float(mean))
    table = rows.records("emotions")
    assert [row["stories"] for row in table] == [N - 2] + [N] * (E - 1)


def test_every_mean_has_an_interval_a_chance_level_and_the_number_of_emotions(lab: Lab) -> None:
    rows = published(fill(lab, Recipe()))
    means = [row for row in rows.metrics if row.subject is None and row.metric[:6] != "split_"]
    for row in means:
        assert row.n == E
        assert row.layer == LAYER
        if not row.metric.startswith("stories_for"):
            assert row.chance == 0.0
        assert row.ci_low is not None
        assert row.ci_high is not None
        assert row.value is not None
        assert row.ci_low <= row.value <= row.ci_high


def test_the_published_row_stands_beside_ours(lab: Lab) -> None:
    rows = published(fill(lab, Recipe()))
    [row] = rows.records("published")
    assert (row["metric"], row["source"], row["value"]) == ("self_cosine.9_stories", "AT", 0.877)
    assert row["ours"] == value(rows, "self_cosine.9_stories")


def test_nine_stories_are_compared_only_with_more(lab: Lab) -> None:
    few = [text for text in story_plan(lab.protocol.names, 8) if text.slot < 3]
    rows = published(fill(lab, Recipe(), few))
    assert rows.select("self_cosine.9_stories") == []
    assert rows.records("published")[0]["ours"] is None
    assert [row["stories"] for row in rows.records("curve")][:4] == [2, 4, 8, 9]


def test_topics_that_cannot_be_halved_are_said_and_left_out(lab: Lab) -> None:
    plan = [text for text in story_plan(lab.protocol.names, 8) if text.topic == TOPICS[0]]
    rows = published(fill(lab, Recipe(), plan))
    assert rows.settings["topics_halved"] == "no"
    assert rows.settings["emotions_with_one_half_of_the_topics"] == E
    assert not [row for row in rows.metrics if ".topics" in row.metric]
    assert {row["topics"] for row in rows.records("emotions")} == {None}
    assert "topics cannot be halved" in render(draw(rows)["curve"], "svg").decode()


def test_two_emotions_have_a_reliability_and_no_interval(lab: Lab) -> None:
    plan = [t for t in story_plan(lab.protocol.names[:2], 1) if t.topic != TOPICS[2]]
    rows = published(fill(lab, Recipe(), plan))
    [mean] = [row for row in rows.select("reliability") if row.subject is None]
    assert mean.value is not None
    assert (mean.n, mean.ci_low, mean.ci_high) == (2, None, None)
    assert [row["stories"] for row in rows.records("curve")] == [2, 2]


def test_the_figure_is_drawn_from_rows_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = published(fill(lab, Recipe()))
    monkeypatch.setattr(reliability, "halve_stories", None)
    assert set(draw(rows)) == {"curve"}
    names = {path.name for path in (lab.workspace.results(READER) / "figures" / CORPUS).iterdir()}
    assert names == {"reliability.curve.png", "reliability.curve.svg"}


def test_the_same_stories_are_not_halved_twice_and_give_the_same_rows(lab: Lab) -> None:
    fill(lab, Recipe())
    inputs = lab.inputs(LAYER)
    assert run(inputs) == run(inputs)
    assert [run_analysis(ANALYSIS, inputs).status for _ in range(2)] == ["done", "unchanged"]
    assert run_analysis(ANALYSIS, lab.inputs(LAYER, seed=8)).status == "done"


def test_without_stories_read_here_the_missing_stage_is_named(lab: Lab) -> None:
    store_vectors(lab, {LAYER: WORLD.vectors}, [f"e{i:02d}" for i in range(E)])
    with pytest.raises(NotReady, match="generate stories"):
        run_analysis(ANALYSIS, lab.inputs(LAYER))


def test_a_damaged_chunk_ends_it_with_nothing_published(lab: Lab) -> None:
    fill(lab, Recipe())
    chunk = next(path for path in _files(lab.workspace) if path.name == "0")
    damaged = bytearray(chunk.read_bytes())
    damaged[100] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(StoreCorrupt):
        run_analysis(ANALYSIS, lab.inputs(LAYER))
    assert _metrics(lab.conn) == []


def _files(workspace: Workspace) -> Sequence[Path]:
    folder = workspace.root / "data" / "activations"
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _metrics(conn: Connection) -> list[Metric]:
    return read_metrics(conn, READER, CORPUS, ANALYSIS.name)


def test_a_kill_in_the_middle_leaves_the_earlier_rows_and_the_next_run_is_whole(
    lab: Lab, tmp_path: Path, start_child: StartChild
) -> None:
    published(fill(lab, Recipe()))
    before = _metrics(lab.conn)
    expected = run(lab.inputs(LAYER, seed=8))
    child = start_child(CHILD, lab.workspace.root)
    for _ in range(2):
        assert line_of(child) == "reading"
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    child.kill()
    child.wait()
    with closing(open_database(lab.workspace.database)) as conn:
        assert _metrics(conn) == before
    rows = published(lab, seed=8)
    assert list(rows.metrics) == list(expected.metrics)
    assert lab.outcomes()[-2:] == [("analyze reliability", None), ("analyze reliability", "done")]
