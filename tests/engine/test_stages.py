"""A stage repeats nothing, and loads a model only when something is open."""

import threading
from dataclasses import replace

import pytest

from engine.demo.job import DEMO_MODEL, generation_settings
from engine.extraction import ExtractionSettings, ExtractionSummary
from engine.loading import LazyModel, LocalWriter
from engine.models import Model
from engine.settings import GenerationSettings
from engine.stages import plan_generation, run_extraction, run_generation
from engine.tally import GenerationSummary
from stores.corpora import protocol_folder
from stores.database import Connection
from stores.errors import FingerprintMismatch, ModelError
from stores.protocol import Protocol, load_protocol
from stores.workspace import Workspace

LAYERS = (1, 3)


@pytest.fixture(scope="module")
def protocol() -> Protocol:
    return load_protocol(DEMO_MODEL / "protocol")


@pytest.fixture
def settings(protocol: Protocol) -> GenerationSettings:
    """Six stories."""
    whole = generation_settings(protocol, "stories", 2)
    return replace(whole, emotions=("happy", "sad", "calm"))


@pytest.fixture
def model() -> LazyModel:
    return LazyModel(name=str(DEMO_MODEL), device="cpu")


def write(
    conn: Connection, protocol: Protocol, settings: GenerationSettings, model: LazyModel
) -> GenerationSummary:
    stop = threading.Event()
    writer = LocalWriter(model=model)
    return run_generation(conn, protocol, settings, writer, progress=lambda _: None, stop=stop)


def read(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    model: LazyModel,
    stop: threading.Event,
    start_token: int = 50,
) -> ExtractionSummary:
    settings = ExtractionSettings(
        reader="toy",
        corpus="demo",
        layers=LAYERS,
        kinds=("stories",),
        start_token=start_token,
    )
    return run_extraction(
        conn, workspace, protocol, settings, model, progress=lambda _: None, stop=stop
    )


def runs(conn: Connection) -> list[tuple[str, str | None]]:
    return [tuple(row) for row in conn.execute("SELECT command, outcome FROM runs ORDER BY id")]


def forbid_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Model:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("engine.loading.load_model", refuse)


def test_finished_stages_load_no_model_and_open_no_run(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    settings: GenerationSettings,
    model: LazyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = threading.Event()
    assert write(conn, protocol, settings, model).done == 6
    assert read(conn, workspace, protocol, model, stop).outcomes == {"done": 6}
    assert runs(conn) == [("generate stories", "done"), ("extract", "done")]
    forbid_loading(monkeypatch)
    again = LazyModel(name=str(DEMO_MODEL), device="cpu")
    assert write(conn, protocol, settings, again).done == 0
    assert read(conn, workspace, protocol, again, stop).rows == 0
    assert len(runs(conn)) == 2


def test_planning_remembers_the_protocol_and_adds_rows_once(
    conn: Connection, protocol: Protocol, settings: GenerationSettings
) -> None:
    assert plan_generation(conn, protocol, settings) == 6
    assert plan_generation(conn, protocol, settings) == 0
    assert protocol_folder(conn, "demo") == (DEMO_MODEL / "protocol").resolve()
    with pytest.raises(FingerprintMismatch, match=r"topics\.txt"):
        plan_generation(conn, load_protocol(), settings)


def test_an_unknown_model_plans_nothing(
    conn: Connection, protocol: Protocol, settings: GenerationSettings
) -> None:
    with pytest.raises(ModelError):
        write(conn, protocol, settings, LazyModel(name="./absent"))
    assert conn.execute("SELECT count(*) FROM stories").fetchone()[0] == 0


def test_another_start_token_is_refused_before_a_model_is_loaded(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    settings: GenerationSettings,
    model: LazyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = threading.Event()
    write(conn, protocol, settings, model)
    read(conn, workspace, protocol, model, stop)
    forbid_loading(monkeypatch)
    with pytest.raises(FingerprintMismatch, match="start_token"):
        read(conn, workspace, protocol, model, stop, start_token=10)


def test_a_stopped_stage_says_so_in_its_run(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    settings: GenerationSettings,
    model: LazyModel,
) -> None:
    write(conn, protocol, settings, model)
    stop = threading.Event()
    stop.set()
    assert read(conn, workspace, protocol, model, stop).stopped
    assert runs(conn)[-1] == ("extract", "stopped")
    assert read(conn, workspace, protocol, model, threading.Event()).rows == 6


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("/a/b/demo_model", "demo_model"),
        ("a/?", "reader"),
    ],
)
def test_a_model_names_its_reader(name: str, slug: str) -> None:
    assert LazyModel(name=name).slug == slug
