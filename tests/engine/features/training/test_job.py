"""A training from end to end: what it leaves, what a second call does, what it refuses."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.features.library import sae_lens
from engine.features.training.finished import read_finished
from engine.features.training.settings import KINDS
from engine.features.training.stream import TokenReader
from engine.features.training.texts import choose_texts
from engine.loading import LazyModel
from engine.models import Model
from engine.packing import Batching
from stores.database import Connection, open_database
from stores.errors import EngineError, StoreCorrupt, UsageError
from stores.workspace import Workspace
from tests.conftest import StartChild
from tests.engine.features.training.made import (
    LAYER,
    WIDTH,
    bytes_of,
    make_reader,
    settings_of,
    train,
)
from tests.engine.features.training.test_stream import reader_of
from tests.projecting import draw_texts, texts_of

LOADER = """
import sys
import numpy as np, torch
from sae_lens import SAE
torch.set_num_threads(1)
sae = SAE.load_from_disk(sys.argv[1])
np.save(sys.argv[3], sae.encode(torch.from_numpy(np.load(sys.argv[2]))).detach().numpy())
print("done")
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny: Model) -> Path:
    """A workspace with a reader; every test gives its SAEs other names."""
    folder = tmp_path_factory.mktemp("training")
    with closing(open_database(Workspace(folder).database)) as conn:
        make_reader(conn, Workspace(folder), tiny)
    return folder


@pytest.fixture
def ledger(root: Path) -> Iterator[Connection]:
    with closing(open_database(Workspace(root).database)) as conn:
        yield conn


@pytest.fixture
def model(tiny_path: Path) -> LazyModel:
    return LazyModel(name=str(tiny_path), device="cpu")


def held_out_tokens(conn: Connection, tiny: Model, batching: Batching = "padded") -> Any:
    reader: TokenReader = reader_of(tiny, batching)
    return torch.from_numpy(reader.gather(conn, choose_texts(conn, settings_of()).held_out))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stated_is_what_whoever_loads_it_finds(
    kind: str, ledger: Connection, root: Path, model: LazyModel, tiny: Model
) -> None:
    summary = train(ledger, root, model, name=kind, kind=kind)
    assert summary.folder == root / "data" / "saes" / "tiny" / kind
    sae = sae_lens().SAE.load_from_disk(summary.folder)
    assert sae.cfg.architecture() == kind
    assert sae.cfg.normalize_activations == "none"
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(WIDTH))
    tokens = held_out_tokens(ledger, tiny)
    with torch.inference_mode():
        codes = sae.encode(tokens)
        error = (sae.decode(codes) - tokens).square().sum()
    spread = (tokens - tokens.mean(dim=0)).square().sum()
    assert summary.held_out == pytest.approx(
        {
            "variance_unexplained": (error / spread).item(),
            "l0": (codes > 0).sum().item() / len(tokens),
            "dead_features": 1.0 - (codes > 0).any(dim=0).float().mean().item(),
            "tokens": len(tokens),
        },
        rel=1e-4,
    )
    assert sae.cfg.metadata.held_out == summary.held_out


def test_it_says_what_it_was_trained_on(
    ledger: Connection, root: Path, model: LazyModel, tiny: Model
) -> None:
    folder = train(ledger, root, model, name="said").folder
    assert folder is not None
    said = json.loads((folder / "cfg.json").read_text())["metadata"]
    assert {name: said[name] for name in ("model_name", "weights_sha", "hook_name", "layer")} == {
        "model_name": tiny.name,
        "weights_sha": tiny.weights_sha,
        "hook_name": f"blocks.{LAYER}.hook_resid_post",
        "layer": LAYER,
    }
    assert (said["reader"], said["corpus"], said["training_tokens"]) == ("tiny", "toy", 2400)
    assert set(said["held_out"]) == {"variance_unexplained", "l0", "dead_features", "tokens"}


def test_training_explains_more_than_the_first_weights_do(
    ledger: Connection, root: Path, model: LazyModel
) -> None:
    short = train(ledger, root, model, name="short", tokens=60)
    longer = train(ledger, root, model, name="longer", tokens=24_000)
    assert longer.held_out["variance_unexplained"] < 0.7 * short.held_out["variance_unexplained"]
    assert longer.folder is not None
    finished = read_finished(longer.folder)
    assert finished is not None
    assert [point["tokens"] for point in finished.curve] == list(range(120, 24_001, 120))
    first, last = finished.curve[0], finished.curve[-1]
    assert last["variance_unexplained"] < first["variance_unexplained"]


def test_jumprelu_fires_about_as_many_features_as_asked(
    ledger: Connection, root: Path, model: LazyModel
) -> None:
    found = train(ledger, root, model, name="jump", kind="jumprelu", tokens=48_000)
    assert 2.0 < found.held_out["l0"] < 8.0


def test_a_fresh_process_finds_the_same_codes(
    ledger: Connection,
    root: Path,
    model: LazyModel,
    tiny: Model,
    tmp_path: Path,
    start_child: StartChild,
) -> None:
    folder = train(ledger, root, model, name="fresh").folder
    tokens = held_out_tokens(ledger, tiny)
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    child = start_child(LOADER, folder, tmp_path / "tokens.npy", tmp_path / "codes.npy")
    assert child.communicate()[0].splitlines()[-1] == "done"
    with torch.inference_mode():
        codes = sae_lens().SAE.load_from_disk(folder).encode(tokens).numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), codes)


def test_a_second_call_trains_nothing_and_loads_nothing(
    ledger: Connection, root: Path, model: LazyModel, tiny_path: Path
) -> None:
    first = train(ledger, root, model, name="once")
    assert first.folder is not None
    before = bytes_of(first.folder)
    runs = ledger.execute("SELECT count(*) FROM runs").fetchone()[0]
    lazy = LazyModel(name=str(tiny_path), device="cpu")
    again = train(ledger, root, lazy, name="once")
    assert "loaded" not in vars(lazy)
    assert (again.tokens, again.stopped, again.held_out) == (0, False, first.held_out)
    assert bytes_of(first.folder) == before
    assert ledger.execute("SELECT count(*) FROM runs").fetchone()[0] == runs


@pytest.mark.parametrize(
    ("changes", "told"), [({"l0": 5}, "l0 4, not 5"), ({"layer": 1}, "layer 2, not 1")]
)
def test_other_settings_under_the_same_name_are_refused(
    changes: dict[str, Any], told: str, ledger: Connection, root: Path, model: LazyModel
) -> None:
    train(ledger, root, model, name="taken")
    with pytest.raises(UsageError, match=rf"taken was begun with {told}; choose another --name"):
        train(ledger, root, model, name="taken", **changes)


def test_other_settings_are_refused_in_the_middle_of_a_training(
    ledger: Connection, root: Path, model: LazyModel
) -> None:
    stop_after(ledger, root, model, "halfway", 600)
    with pytest.raises(UsageError, match="halfway was begun with seed 0, not 1"):
        train(ledger, root, model, name="halfway", seed=1)


def stop_after(
    conn: Connection, root: Path, model: LazyModel, name: str, tokens: int, **changes: Any
) -> Any:
    stop = threading.Event()

    def watch(done: int, _total: int, _note: str) -> None:
        if done >= tokens:
            stop.set()

    return train(conn, root, model, name=name, stop=stop, progress=watch, **changes)


@pytest.mark.parametrize("size", [400, 700, 10_000])  # between two buffers and within one
def test_after_a_stop_the_next_call_goes_on_and_ends_at_the_same_weights(
    size: int, ledger: Connection, root: Path, model: LazyModel
) -> None:
    calm = train(ledger, root, model, name=f"calm{size}", buffer_tokens=size)
    assert calm.folder is not None
    name = f"stopped{size}"
    stopped = stop_after(ledger, root, model, name, 1200, buffer_tokens=size)
    assert (stopped.stopped, stopped.folder) == (True, None)
    assert 1200 <= stopped.tokens < 2400
    rest = train(ledger, root, model, name=name, buffer_tokens=size)
    assert rest.tokens == 2400 - stopped.tokens
    assert rest.folder is not None
    weights = "sae_weights.safetensors"
    assert bytes_of(rest.folder)[weights] == bytes_of(calm.folder)[weights]
    outcomes = [outcome for (outcome,) in ledger.execute("SELECT outcome FROM runs ORDER BY id")]
    assert outcomes[-2:] == ["stopped", "done"]
    assert not [each for each in calm.folder.parent.iterdir() if each.name.startswith(f".{name}")]


def test_a_stop_before_the_first_step_leaves_nothing(
    ledger: Connection, root: Path, model: LazyModel
) -> None:
    stop = threading.Event()
    stop.set()
    assert train(ledger, root, model, name="never", stop=stop).stopped
    assert not list((root / "data" / "saes").glob("**/*never*"))


def test_documents_are_trained_on_too_and_those_left_out_are_told(
    ledger: Connection, root: Path, model: LazyModel
) -> None:
    alone = train(ledger, root, model, name="alone")
    draw_texts(ledger, [*texts_of(12), " "])
    told: list[str] = []
    found = train(ledger, root, model, name="both", samples=("notes",), tell=told.append)
    assert told == ["left out, because they cannot be read: 1 texts"]
    assert found.held_out["tokens"] == alone.held_out["tokens"]
    assert found.held_out != alone.held_out


def test_a_chat_is_read_without_its_template(
    ledger: Connection, root: Path, model: LazyModel
) -> None:
    plain, chat = [train(ledger, root, model, name=f, format=f) for f in ("raw", "chat")]
    assert chat.held_out["tokens"] <= plain.held_out["tokens"]  # edges may be other tokens
    assert chat.held_out != plain.held_out


def test_a_folder_of_something_else_is_left_alone(
    ledger: Connection, root: Path, model: LazyModel
) -> None:
    folder = Workspace(root).saes("tiny") / "foreign"
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text("{}")
    with pytest.raises(UsageError, match="foreign holds no SAE that was trained here"):
        train(ledger, root, model, name="foreign")
    (folder / "training.json").write_text("{")
    with pytest.raises(StoreCorrupt, match="remove"):
        train(ledger, root, model, name="foreign")
    assert sorted(bytes_of(folder)) == ["cfg.json", "training.json"]


@pytest.mark.parametrize("name", ["../up", "a b", "a.b", ""])
def test_a_name_that_is_no_plain_word_is_refused(
    name: str, ledger: Connection, root: Path, model: LazyModel
) -> None:
    with pytest.raises(UsageError):
        train(ledger, root, model, name=name)


def test_a_layer_that_the_model_lacks_is_refused(
    ledger: Connection, root: Path, model: LazyModel
) -> None:
    with pytest.raises(UsageError, match=r"layer 4: model .* has 4 layers, numbered"):
        train(ledger, root, model, name="deep", layer=4)
    assert "loaded" not in vars(model)


def test_a_training_that_diverges_says_so(ledger: Connection, root: Path, model: LazyModel) -> None:
    with pytest.raises(EngineError, match=r"loss is (inf|nan).*diverged.* under another --name"):
        train(ledger, root, model, name="wild", kind="standard", sparsity=3e38)
