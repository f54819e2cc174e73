"""Laws of running an analysis: rows first, everything else from rows, nothing twice."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib.figure import Figure

from analyses.base import (
    Analysis,
    Inputs,
    Result,
    Rows,
    discover,
    home_of,
    run_analysis,
)
from analyses.figures import draw_variance
from analyses.keeping import PLANTED_NOTE, draw_figures
from stores.database import Connection
from stores.errors import FingerprintMismatch, NotReady, UsageError
from stores.results import Metric, Table, read_metrics
from stores.workspace import Workspace
from tests.analyses.lab import CORPUS, READER, Lab, open_lab, store_vectors, write_protocol
from tests.analyses.planted import Floats, planted_world

WORLD = planted_world(e=6, d=4, families=2)
VECTORS: Mapping[int, Floats] = {0: WORLD.vectors, 1: WORLD.vectors * 2.0}


class Spy:
    """An analysis that counts how often it computes and draws."""

    def __init__(self) -> None:
        self.runs, self.drawn = 0, 0
        self.fails_with: BaseException | None = None
        self.analysis = Analysis("spy", "How often?", ("vectors",), self.run, self.draw)

    def run(self, inputs: Inputs) -> Result:
        self.runs += 1
        if self.fails_with:
            raise self.fails_with
        metrics = (Metric("seed", float(inputs.seed), n=3), Metric("share", 0.25, layer=0))
        return Result(metrics, (Table("settings", ("setting", "value"), (("depth", 2),)),))

    def draw(self, rows: Rows) -> dict[str, Figure]:
        self.drawn += 1
        share = rows.select("share", layer=0)[0].value
        title = f"depth {rows.settings['depth']}"
        return {"bars": draw_variance(_column(share), [0], title=title, subtitle="spied")}


def _column(share: float | None) -> Floats:
    return planted_world().vectors[:1, :1] * 0.0 + (share or 0.0)


@pytest.fixture
def lab(conn: Connection, workspace: Workspace) -> Lab:
    made = open_lab(conn, workspace, WORLD)
    store_vectors(made, VECTORS)
    return made


@pytest.fixture
def spy() -> Spy:
    return Spy()


def _figure(lab: Lab, suffix: str) -> Path:
    return lab.workspace.results(READER) / "figures" / CORPUS / f"spy.bars.{suffix}"


def test_rows_are_published_and_everything_else_is_made_of_them(lab: Lab, spy: Spy) -> None:
    summary = run_analysis(spy.analysis, lab.inputs(0, 1))
    assert summary.status == "done"
    assert read_metrics(lab.conn, READER, CORPUS, "spy")[0] == Metric("seed", 7.0, n=3)
    exported = lab.workspace.results(READER) / CORPUS / "spy.json"
    assert json.loads(exported.read_bytes())["metrics"][1]["value"] == 0.25
    assert _figure(lab, "png").read_bytes().startswith(b"\x89PNG")
    assert {exported, _figure(lab, "png"), _figure(lab, "svg")} <= set(summary.files)
    assert lab.outcomes()[-1] == ("analyze spy", "done")


def test_the_same_inputs_are_computed_once(lab: Lab, spy: Spy) -> None:
    first = run_analysis(spy.analysis, lab.inputs(0))
    second = run_analysis(spy.analysis, lab.inputs(0))
    assert (spy.runs, spy.drawn) == (1, 1)
    assert (second.status, second.run_id, second.files) == ("unchanged", first.run_id, ())


@pytest.mark.parametrize("changed", [{"seed": 8}, {"permutations": 9}, {"layers": (0, 1)}])
def test_other_settings_are_computed_anew(
    lab: Lab, spy: Spy, changed: Mapping[str, object]
) -> None:
    run_analysis(spy.analysis, lab.inputs(0))
    assert run_analysis(spy.analysis, lab.inputs(0, **changed)).status == "done"
    assert spy.runs == 2


def test_other_vectors_are_computed_anew(lab: Lab, spy: Spy) -> None:
    run_analysis(spy.analysis, lab.inputs(0))
    store_vectors(lab, {1: WORLD.vectors})
    assert run_analysis(spy.analysis, lab.inputs(0)).status == "unchanged"
    store_vectors(lab, {0: WORLD.vectors[::-1]})
    assert run_analysis(spy.analysis, lab.inputs(0)).status == "done"


def test_a_lost_figure_is_drawn_from_rows_without_computing(lab: Lab, spy: Spy) -> None:
    run_analysis(spy.analysis, lab.inputs(0))
    before = _figure(lab, "svg").read_bytes()
    for suffix in ("png", "svg"):
        _figure(lab, suffix).unlink()
    assert run_analysis(spy.analysis, lab.inputs(0)).status == "unchanged"
    assert spy.runs == 1
    assert _figure(lab, "svg").read_bytes() == before


def test_drawing_anew_gives_the_same_bytes(lab: Lab, spy: Spy) -> None:
    run_analysis(spy.analysis, lab.inputs(0))
    before = {path: path.read_bytes() for path in _figure(lab, "png").parent.iterdir()}
    draw_figures(home_of(lab.inputs(0)), "spy", spy.draw)
    assert {path: path.read_bytes() for path in _figure(lab, "png").parent.iterdir()} == before


def test_a_figure_of_earlier_rows_does_not_stay(lab: Lab, spy: Spy) -> None:
    run_analysis(spy.analysis, lab.inputs(0))
    stale, other = (_figure(lab, "png").with_name(f"{name}.old.png") for name in ("spy", "spying"))
    for path in (stale, other):
        path.write_bytes(b"")
    run_analysis(spy.analysis, lab.inputs(0, seed=8))
    assert (stale.exists(), other.exists()) == (False, True)


def test_a_failure_is_recorded_publishes_nothing_and_is_no_result(lab: Lab, spy: Spy) -> None:
    spy.fails_with = ZeroDivisionError("by zero")
    with pytest.raises(ZeroDivisionError):
        run_analysis(spy.analysis, lab.inputs(0))
    assert lab.outcomes()[-1] == ("analyze spy", "failed: ZeroDivisionError: by zero")
    assert read_metrics(lab.conn, READER, CORPUS, "spy") == []
    spy.fails_with = None
    assert run_analysis(spy.analysis, lab.inputs(0)).status == "done"


def test_a_stop_by_the_user_is_recorded_as_one(lab: Lab, spy: Spy) -> None:
    spy.fails_with = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_analysis(spy.analysis, lab.inputs(0))
    assert lab.outcomes()[-1] == ("analyze spy", "stopped")


def test_figures_of_planted_labels_say_so_and_others_do_not(lab: Lab, spy: Spy) -> None:
    run_analysis(spy.analysis, lab.inputs(0))
    assert PLANTED_NOTE.encode() in _figure(lab, "svg").read_bytes()


def test_figures_of_other_labels_carry_no_note(
    conn: Connection, workspace: Workspace, spy: Spy
) -> None:
    lab = open_lab(conn, workspace, WORLD, labels="editorial")
    store_vectors(lab, VECTORS)
    run_analysis(spy.analysis, lab.inputs(0))
    assert PLANTED_NOTE.encode() not in _figure(lab, "svg").read_bytes()


def test_missing_vectors_are_named_before_anything_runs(lab: Lab, spy: Spy) -> None:
    runs = lab.outcomes()
    with pytest.raises(NotReady, match=r"layers \[4\] .* have no vectors .*generate stories"):
        run_analysis(spy.analysis, lab.inputs(0, 4))
    assert (spy.runs, lab.outcomes()) == (0, runs)


def test_another_protocol_is_refused(lab: Lab, spy: Spy) -> None:
    other = write_protocol(lab.workspace.root / "other", planted_world(e=6, d=4, seed=1))
    with pytest.raises(FingerprintMismatch, match=r"emotions\.tsv"):
        run_analysis(spy.analysis, lab.inputs(0, protocol=other))


def test_the_analysis_layer_must_be_one_of_the_layers(lab: Lab) -> None:
    with pytest.raises(UsageError, match="analysis layer 3"):
        lab.inputs(0, 1, layer=3)


def test_an_unknown_need_is_refused_when_the_analysis_is_made(spy: Spy) -> None:
    with pytest.raises(
        ValueError, match=r"needs \['vektors'\]; known: \['activations', 'halves', 'model'"
    ):
        Analysis("odd", "?", ("vektors",), spy.run, spy.draw)


def test_asking_for_a_table_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="scores"):
        Rows((), ()).table("scores", 3)


def test_analyses_are_found_by_their_files() -> None:
    found = discover()
    assert found["geometry"].needs == ("vectors",)
    assert all(name == analysis.name for name, analysis in found.items())


def test_two_analyses_of_one_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "twins"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "silent.py").write_text("X = 1\n")
    source = (
        "from analyses.base import Analysis, Result\n"
        "ANALYSIS = Analysis('twin', '?', (), lambda inputs: Result(), lambda rows: {})\n"
    )
    (folder / "first.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    package: ModuleType = __import__("twins")
    assert list(discover(package)) == ["twin"]
    (folder / "second.py").write_text(source)
    with pytest.raises(ValueError, match=r"twins\.second: a second analysis is named 'twin'"):
        discover(package)
