"""What an extraction takes is known before a weight is read, and what cannot fit never begins."""

import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.extraction import ExtractionSettings, array_settings, plan_extraction
from engine.forecasting.backlog import find_backlog, guess_tokens
from engine.forecasting.fitting import cautions, document, duration, refusal, require_fit, table
from engine.forecasting.forecast import Forecast, forecast, reading_place
from engine.forecasting.machine import Card, Machine
from engine.forecasting.rooms import size
from engine.forecasting.sketch import sketch_model
from engine.loading import LazyModel
from engine.readings import TextReader
from engine.stages import run_extraction
from stores.arrays import find_chunks
from stores.database import Connection
from stores.errors import EngineError, NoRoom, NotReady
from stores.protocol import Protocol
from stores.rates import ANALYSIS, rate_metric
from stores.results import open_run, publish
from stores.workspace import Workspace
from tests.engine.protocols import write_protocol
from tests.engine.test_extraction import DIALOGUES, STORIES, add_texts
from tests.engine.tiny import text_of
from tests.stores.arranged import files_below

GB = 10**9
ROOMY = Machine(disk=100 * GB, memory=100 * GB, memory_source="MemAvailable", cores=2, cards=())
SETTINGS = ExtractionSettings(
    reader="tiny", corpus="toy", layers=(1, 3), start_token=5, chunk_rows=4, tokens_per_batch=200
)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of products are measured in no time."""
    monkeypatch.setattr("engine.forecasting.machine.MEASURE_S", 0.01)


@pytest.fixture
def protocol(tmp_path: Path) -> Protocol:
    """One that the texts of `add_texts` follow, as far as the ledger can tell."""
    return replace(write_protocol(tmp_path), digest="sha256:p")


@pytest.fixture
def lazy(tiny_path: Path) -> LazyModel:
    return LazyModel(name=str(tiny_path), device="cpu")


@pytest.fixture
def planned(conn: Connection, workspace: Workspace, protocol: Protocol, lazy: LazyModel) -> None:
    add_texts(conn, STORIES)
    add_texts(conn, DIALOGUES, "dialogues")
    plan(conn, workspace, protocol, lazy)


def plan(conn: Connection, workspace: Workspace, protocol: Protocol, lazy: LazyModel) -> None:
    arrays = array_settings(lazy.checkpoint, lazy.compute_dtype, protocol, SETTINGS)
    plan_extraction(conn, workspace, arrays, SETTINGS)


def read(
    conn: Connection,
    workspace: Workspace,
    protocol: Protocol,
    lazy: LazyModel,
    **changes: Any,
) -> int:
    """Extract; the tokens that were read."""
    summary = run_extraction(
        conn,
        workspace,
        protocol,
        replace(SETTINGS, **changes),
        lazy,
        progress=lambda _progress: None,
        stop=threading.Event(),
    )
    return summary.tokens


def chunk_bytes(workspace: Workspace) -> int:
    found = find_chunks(workspace.activations("tiny"))
    return sum(path.stat().st_size for path in found)


@pytest.mark.usefixtures("planned")
def test_the_disk_foretold_is_what_is_then_written_byte_for_byte(
    conn: Connection, workspace: Workspace, protocol: Protocol, lazy: LazyModel
) -> None:
    before = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    tokens = read(conn, workspace, protocol, lazy)
    after = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    assert (before.texts, before.chunks, before.files) == (13, 4, 8)
    assert before.disk.part("chunk files") == chunk_bytes(workspace) == after.written_bytes
    assert before.tokens == pytest.approx(tokens, rel=0.01), "every text was in the sample"
    assert (after.texts, after.tokens, after.seconds, after.disk.needed) == (0, 0, 0, 0)


@pytest.mark.usefixtures("planned")
def test_what_is_done_by_halves_counts_only_the_rest(
    conn: Connection, workspace: Workspace, protocol: Protocol, lazy: LazyModel
) -> None:
    whole = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    read(conn, workspace, protocol, lazy, layers=(3,))
    read(conn, workspace, protocol, lazy, kinds=("dialogues",))
    written = chunk_bytes(workspace)
    rest = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    assert (rest.texts, rest.chunks, rest.files) == (10, 3, 3)
    assert rest.written_bytes == written
    assert rest.disk.part("chunk files") + written == whole.disk.part("chunk files")
    read(conn, workspace, protocol, lazy)
    assert chunk_bytes(workspace) == whole.disk.part("chunk files")


@pytest.mark.usefixtures("planned")
def test_files_without_a_receipt_are_written_over_and_take_no_room_twice(
    conn: Connection, workspace: Workspace, protocol: Protocol, lazy: LazyModel
) -> None:
    read(conn, workspace, protocol, lazy)
    conn.execute("DELETE FROM receipts WHERE layer = 1")
    again = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    assert again.disk.part("chunk files") == -again.disk.part("files they replace")
    assert again.files == 4


@pytest.mark.usefixtures("planned")
def test_layers_that_are_not_deep_take_less_time(
    conn: Connection, workspace: Workspace, protocol: Protocol, lazy: LazyModel
) -> None:
    known(conn, lazy)
    whole = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    read(conn, workspace, protocol, lazy, layers=(3,))
    known(conn, lazy)
    rest = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    assert rest.tokens == whole.tokens
    assert rest.seconds == pytest.approx(whole.seconds / 2)


@pytest.mark.usefixtures("planned")
def test_a_forecast_writes_nothing_and_loads_nothing(
    conn: Connection, workspace: Workspace, lazy: LazyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.loading.load_model", lambda *_: pytest.fail("weights were read"))
    before, changes = files_below(workspace.root), conn.total_changes
    forecast(conn, workspace, SETTINGS, lazy)
    assert (files_below(workspace.root), conn.total_changes) == (before, changes)


def test_what_was_never_planned_cannot_be_foretold(
    conn: Connection, workspace: Workspace, lazy: LazyModel
) -> None:
    with pytest.raises(NotReady):
        forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)


def test_tokens_of_a_mixed_corpus_are_guessed_within_a_tenth(
    conn: Connection, workspace: Workspace, protocol: Protocol, lazy: LazyModel
) -> None:
    chances = random.Random(3)
    plain = [text_of(chances.randint(6, 60), start=i) for i in range(700)]
    # byte by byte: a token a character or more
    odd = ["".join(chances.choices("äöüß漢字 ", k=chances.randint(20, 90))) for _ in range(200)]
    texts = [*plain, *odd, *(text_of(900, start=i) for i in range(3)), *["", "No."] * 30]
    chances.shuffle(texts)
    add_texts(conn, texts)
    plan(conn, workspace, protocol, lazy)
    sketch = sketch_model(lazy.checkpoint, "float32")
    backlog = find_backlog(conn, workspace, SETTINGS, 32)
    guess = guess_tokens(conn, backlog, sketch.model, SETTINGS)
    reader = TextReader(sketch.model, SETTINGS.format, SETTINGS.start_token)
    readings = [reader.read(text) for text in texts]
    tokens = sum(len(reading.segment.ids) for reading in readings if not reading.fault)
    assert "in 200 texts" in guess.source
    assert guess.tokens == pytest.approx(tokens, rel=0.1)
    assert guess.longest == 256, "no text is read that is longer than the context"


def test_texts_that_will_not_be_read_count_as_no_tokens(
    conn: Connection, workspace: Workspace, protocol: Protocol, lazy: LazyModel
) -> None:
    add_texts(conn, [*STORIES, *(text_of(900, start=i) for i in range(3)), "Too short."])
    plan(conn, workspace, protocol, lazy)
    found = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    assert found.texts == 14
    assert refusal(found) is None, "a text longer than the context is no reason"
    assert found.tokens == pytest.approx(read(conn, workspace, protocol, lazy), abs=1)


def known(conn: Connection, lazy: LazyModel, *, layer: int = 3) -> None:
    """An earlier run that read 1000 tokens a second up to `layer`."""
    revision = lazy.checkpoint.weights_sha
    run = open_run(conn, "extract", {}, model=lazy.checkpoint.name, model_revision=revision)
    where = reading_place("float32", torch.device("cpu"))
    metric = rate_metric(tokens=5000, seconds=5.0, layer=layer, where=where)
    publish(conn, run, "tiny", "toy", ANALYSIS, [metric])


@pytest.mark.usefixtures("planned")
def test_time_comes_from_an_earlier_run_where_there_is_one(
    conn: Connection, workspace: Workspace, lazy: LazyModel
) -> None:
    known(conn, lazy)
    found = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    assert found.seconds == pytest.approx(found.tokens / 1000, rel=0.01)
    assert found.rate_source == "run 1: 5000 tokens up to layer 3"
    known(conn, lazy, layer=1)
    found = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    assert found.seconds == pytest.approx(found.tokens / 500, rel=0.01)


@pytest.mark.usefixtures("planned")
def test_a_run_tells_its_rate_to_the_next(
    conn: Connection, workspace: Workspace, protocol: Protocol, lazy: LazyModel
) -> None:
    tokens = read(conn, workspace, protocol, lazy, layers=(1,))
    found = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    assert found.rate_source == f"run 1: {tokens} tokens up to layer 1"


@pytest.mark.usefixtures("planned")
def test_time_comes_from_a_measurement_and_an_assumption_else(
    conn: Connection, workspace: Workspace, lazy: LazyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(conn, lazy)
    conn.execute("UPDATE runs SET model_revision = 'other weights'")
    monkeypatch.setattr("engine.forecasting.forecast.multiplying_rate", lambda _device, _dtype: 4e9)
    found = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    assert found.rate_source == (
        "no earlier run to go by: 4 GFLOP/s of matrix products measured, 50% of it assumed"
    )
    blocks = sketch_model(lazy.checkpoint, "float32").model.blocks
    matrices = sum(w.numel() for block in blocks for w in block.parameters() if w.dim() == 2)
    assert found.tokens_per_second == pytest.approx(4e9 * 0.5 / (2 * matrices), rel=0.01)


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(
    ("lack", "line"),
    [
        ({"disk": 3000}, "disk: .* needed .*chunk files.* 3.0 kB are there .* fewer --layers"),
        ({"memory": 3 * 10**5}, "host memory: .* --tokens-per-batch [0-9]+$"),
        ({"memory": 10**5}, "host memory: .* use --quantize 4bit or a smaller model$"),
    ],
)
def test_too_little_is_refused_before_anything_begins(
    conn: Connection,
    workspace: Workspace,
    lazy: LazyModel,
    lack: dict[str, Any],
    line: str,
) -> None:
    before = files_below(workspace.root)
    found = forecast(conn, workspace, SETTINGS, lazy, machine=replace(ROOMY, **lack))
    with pytest.raises(NoRoom, match=line):
        require_fit(found)
    assert issubclass(NoRoom, EngineError)
    assert "loaded" not in vars(lazy)
    assert files_below(workspace.root) == before


@pytest.mark.usefixtures("planned")
def test_the_batch_that_is_advised_fits(
    conn: Connection, workspace: Workspace, lazy: LazyModel
) -> None:
    little = replace(ROOMY, memory=3 * 10**5)
    line = refusal(forecast(conn, workspace, SETTINGS, lazy, machine=little)) or ""
    fewer = replace(SETTINGS, tokens_per_batch=int(line.rsplit(" ", 1)[1]))
    require_fit(forecast(conn, workspace, fewer, lazy, machine=little))
    assert fewer.tokens_per_batch is not None
    assert fewer.tokens_per_batch < 200


def on_cards(
    found: tuple[Connection, Workspace, LazyModel], monkeypatch: pytest.MonkeyPatch, *free: int
) -> Forecast:
    """The forecast for CUDA cards with so many bytes free each."""
    conn, workspace, lazy = found
    monkeypatch.setattr(
        "engine.forecasting.forecast.choose_device", lambda _device: torch.device("cuda")
    )
    monkeypatch.setattr(
        "engine.forecasting.forecast.multiplying_rate", lambda _device, _dtype: 1e12
    )
    monkeypatch.setattr("engine.forecasting.forecast.device_name", lambda _device: "Card")
    cards = tuple(Card(i, "Card", each, 2 * each) for i, each in enumerate(free))
    cuda = LazyModel(name=lazy.name, dtype="float32", offload=lazy.offload)
    return forecast(conn, workspace, SETTINGS, cuda, machine=replace(ROOMY, cards=cards))


@pytest.fixture
def place(
    conn: Connection, workspace: Workspace, lazy: LazyModel, planned: None
) -> tuple[Connection, Workspace, LazyModel]:
    return conn, workspace, lazy


def test_weights_too_large_for_a_card_are_refused(
    place: tuple[Connection, Workspace, LazyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = on_cards(place, monkeypatch, 10**5)
    assert found.card is not None
    weights = found.card.part("weights")
    assert refusal(found) == (
        f"card memory: {size(weights)} of weights of model {found.model} in float32, 90.0 kB may "
        f"be filled (free on Card 0), {size(weights - 90_000)} too little; "
        "use --quantize 4bit, another card or a smaller model"
    )
    assert refusal(on_cards(place, monkeypatch, *[10**5] * 3)) is None, "three cards hold it"


def test_what_no_card_holds_waits_in_host_memory_when_that_is_asked(
    place: tuple[Connection, Workspace, LazyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    conn, workspace, lazy = place
    found = on_cards((conn, workspace, replace(lazy, offload=True)), monkeypatch, 10**5)
    assert found.card is not None
    assert found.card.part("weights") == 90_000
    assert found.host.part("weights that wait here") > 0
    assert refusal(found) is None


def test_a_batch_too_large_for_a_card_is_told_and_not_refused(
    place: tuple[Connection, Workspace, LazyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = on_cards(place, monkeypatch, GB)
    assert roomy.card is not None
    assert cautions(roomy) == []
    tight = on_cards(place, monkeypatch, roomy.card.needed - roomy.card.part("batch") // 2)
    assert refusal(tight) is None
    assert cautions(tight)[0].endswith(f"{roomy.batch_tokens // 2} saves the tries")
    full = on_cards(place, monkeypatch, 2 * roomy.card.part("weights"))
    assert refusal(full) is None
    assert cautions(full)[0].endswith("the weights leave too little for any")


@pytest.mark.usefixtures("planned")
def test_the_table_names_every_number_with_its_source(
    conn: Connection, workspace: Workspace, lazy: LazyModel
) -> None:
    found = forecast(conn, workspace, SETTINGS, lazy, machine=ROOMY)
    rows = {thing.strip(): (needed, there, source) for thing, needed, there, source in table(found)}
    assert list(rows)[:4] == ["texts to read", "tokens", "time", "disk"]
    assert rows["host memory"][1:] == ("100.0 GB", "MemAvailable")
    assert all(source for _, _, source in rows.values())
    plain = document(found)
    assert plain["disk"]["needed"] == found.disk.needed
    assert (plain["refusal"], plain["cautions"]) == (None, [])


def test_numbers_are_told_in_units_people_know() -> None:
    assert [size(n) for n in (0, 999, 1000, 3_210_000, -5000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "3.2 MB",
        "-5.0 kB",
    ]
    assert [duration(s) for s in (0.2, 99, 600, 20_000)] == ["0 s", "99 s", "10 min", "5.6 h"]
