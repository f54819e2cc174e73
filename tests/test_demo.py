"""The demo as a newcomer runs it: the plant is found, a second call repeats nothing, and with the
emotions of the stories shuffled nothing is found."""

import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zarr

from engine.demo.job import NAME
from stores.database import open_database
from stores.results import Metric, read_metrics
from stores.workspace import Workspace
from tests.conftest import ROOT

LAYER = 3
TOPICS = 4
STORIES, DIALOGUES, LAYERS = 171 * TOPICS, 100, 6


def demo(workspace: Workspace, *options: str) -> str:
    command = [sys.executable, "cli.py", "--workspace", str(workspace.root), "demo"]
    command += ["--topics", str(TOPICS), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    workspace = Workspace(tmp_path_factory.mktemp("demo"))
    return workspace, demo(workspace)


def found(workspace: Workspace, metric: str, subject: str) -> Metric:
    with closing(open_database(workspace.database, read_only=True)) as conn:
        rows = read_metrics(conn, NAME, NAME, "geometry", metric=metric, layer=LAYER)
    return next(row for row in rows if row.subject == subject)


def value(row: Metric) -> float:
    assert row.value is not None
    return row.value


def test_the_table_says_what_was_done_and_that_it_is_a_toy(shown: tuple[Workspace, str]) -> None:
    workspace, table = shown
    for words in ("toy", "planted", "done", "rejected", "failed", "permutation p", "ARI", "split"):
        assert words in table
    assert str(workspace.database) in table


def test_the_board_of_the_suite_has_a_line_for_every_criterion(
    shown: tuple[Workspace, str],
) -> None:
    lines = [line for line in shown[1].splitlines() if re.match(r"│ V\d+ ", line)]
    assert [line.split()[1] for line in lines] == [f"V{i}" for i in range(1, 12)]
    assert "verification suite; toy model, planted geometry" in shown[1]


def test_every_planned_text_is_settled_and_nearly_all_are_done(
    shown: tuple[Workspace, str],
) -> None:
    with closing(open_database(shown[0].database, read_only=True)) as conn:
        for kind, planned in (("stories", STORIES), ("dialogues", DIALOGUES)):
            query = f"SELECT status, count(*) FROM {kind} GROUP BY status"
            states = dict(conn.execute(query).fetchall())
            assert sum(states.values()) == planned
            assert set(states) <= {"done", "rejected", "failed"}
            assert states["done"] >= 0.98 * planned


def test_the_planted_geometry_is_recovered(shown: tuple[Workspace, str]) -> None:
    valence = found(shown[0], "r_valence", "PC1")
    arousal = found(shown[0], "r_arousal", "PC2")
    families = found(shown[0], "ari_families", "k-means")
    assert abs(value(valence)) >= 0.85
    assert abs(value(arousal)) >= 0.8
    assert value(families) >= 0.4
    assert [row.p_value for row in (valence, arousal, families)] == [pytest.approx(1 / 1001)] * 3


def of_sae(workspace: Workspace, name: str) -> dict[str, Metric]:
    with closing(open_database(workspace.database, read_only=True)) as conn:
        rows = read_metrics(conn, NAME, NAME, f"sae.{name}", layer=LAYER)
    return {row.metric: row for row in rows if row.subject is None}


def test_the_embedded_sae_is_near_the_vectors_where_its_control_is_not(
    shown: tuple[Workspace, str],
) -> None:
    rows = of_sae(shown[0], "trained")
    assert value(rows["cosine.found"]) >= 80
    assert value(rows["cosine.found.control"]) <= 10
    assert (rows["cosine.gain"].ci_low or 0) > 0
    assert value(rows["rebuild.denoised.1"]) >= (rows["rebuild.denoised.1"].chance or 1) + 0.05
    own, rival = (f"V1.controlled.{choice}" for choice in ("cosine", "control_cosine"))
    assert value(rows[own]) >= 3 * value(rows[rival])
    assert "SAE features near the vectors" in shown[1]


def test_of_a_random_sae_of_the_same_shape_the_comparison_says_no(
    shown: tuple[Workspace, str],
) -> None:
    rows = of_sae(shown[0], "random")
    assert value(rows["cosine.found"]) == 0
    for gain in ("cosine.gain", "auc.gain", "rsa.gain"):
        assert (rows[gain].p_value or 0) > 0.05
    assert value(rows["rebuild.denoised.1"]) <= (rows["rebuild.denoised.1"].chance or 0)
    assert (rows["V1.controlled.cosine"].p_value or 0) > 0.05
    assert value(rows["auc.mean"]) > 0.6  # which alone would have said yes


def test_both_saes_have_figures_and_cards(shown: tuple[Workspace, str]) -> None:
    results = shown[0].results(NAME)
    for name in ("trained", "random"):
        assert (results / NAME / f"sae.{name}.cards.html").is_file()
        for figure in ("cosines", "aucs", "rebuild", "features", "components"):
            assert (results / "figures" / NAME / f"sae.{name}.{figure}.png").is_file()


def test_with_the_emotions_of_the_stories_shuffled_the_same_command_finds_nothing(
    shown: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "shuffled")
    shutil.copytree(shown[0].root, workspace.root)
    with closing(sqlite3.connect(workspace.database)) as conn, conn:
        shuffle_texts(conn, random.Random(0))
    demo(workspace, "--no-suite")
    for metric, subject in (("r_valence", "PC1"), ("r_arousal", "PC2")):
        assert abs(value(found(workspace, metric, subject))) < 0.3
        assert (found(workspace, f"{metric}_max", subject).p_value or 0) > 0.05
    assert abs(value(found(workspace, "ari_families", "k-means"))) < 0.05


def shuffle_texts(conn: sqlite3.Connection, rng: random.Random) -> None:
    """Deal the texts of each topic's stories anew among its emotions."""
    texts = defaultdict(list)
    query = "SELECT id, topic, text FROM stories WHERE status = 'done'"
    for row, topic, text in conn.execute(query).fetchall():
        texts[topic].append((row, text))
    for members in texts.values():
        dealt = rng.sample([text for _, text in members], len(members))
        changes = [(text, row) for (row, _), text in zip(members, dealt, strict=True)]
        conn.executemany("UPDATE stories SET text = ? WHERE id = ?", changes)


def files(workspace: Workspace) -> Iterator[tuple[str, int]]:
    for path in sorted((workspace.root / "data" / "activations").rglob("*")):
        yield str(path), path.stat().st_mtime_ns


def test_a_second_demo_writes_nothing_and_prints_the_same(shown: tuple[Workspace, str]) -> None:
    workspace, table = shown
    before, began = list(files(workspace)), time.monotonic()
    again = demo(workspace)
    assert time.monotonic() - began <= 15
    assert again == table
    assert list(files(workspace)) == before


def test_plain_tools_read_the_workspace(shown: tuple[Workspace, str]) -> None:
    workspace = shown[0]
    tool = [sys.executable, "-m", "sqlite_utils", "tables", str(workspace.database), "--counts"]
    told = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    assert f'"table": "stories", "count": {STORIES}' in told
    group = zarr.open_group(str(workspace.activations(NAME)), mode="r")
    for layer in range(LAYERS):
        array = group[f"{NAME}/stories/layer_{layer}"]
        assert isinstance(array, zarr.Array)
        assert array.shape == (STORIES, 128)
        assert array.attrs["layer"] == layer
        assert np.isfinite(np.asarray(array[:8])).all()
