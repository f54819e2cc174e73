"""A checkpoint is found, named and identified before any weight is read."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from huggingface_hub.errors import RepositoryNotFoundError

import engine.checkpoints
from engine.checkpoints import SAMPLE_BYTES, WHOLE_BYTES, describe_checkpoint, weights_digest
from engine.models import load_model
from stores.errors import ModelError


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every question to the hub fails at once, as it does without a network."""

    class Unreachable:
        def model_info(self, *_: object, **__: object) -> None:
            raise OSError("Name or service not known")

    monkeypatch.setattr(engine.checkpoints, "HfApi", Unreachable)
    yield


def test_a_folder_is_described_without_its_weights(tiny_path: Path) -> None:
    found = describe_checkpoint(str(tiny_path))
    assert (found.name, found.revision, found.hub_revision) == (tiny_path.name, "local", None)
    assert (found.n_layers, found.d_model) == (4, 32)
    assert found.weights_sha.startswith("sha256:")


def test_moving_a_folder_does_not_make_it_another_model(tiny_path: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_path, tmp_path / "elsewhere" / tiny_path.name)
    here, there = describe_checkpoint(str(tiny_path)), describe_checkpoint(str(moved))
    assert (here.name, here.weights_sha) == (there.name, there.weights_sha)


def test_one_changed_byte_is_another_model(tiny_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_path, tmp_path / "copy")
    file = copy / "model.safetensors"
    payload = bytearray(file.read_bytes())
    payload[-1] ^= 1
    file.write_bytes(payload)
    assert weights_digest(copy) != weights_digest(tiny_path)


@pytest.mark.parametrize("offset", [0, WHOLE_BYTES], ids=["first byte", "last byte"])
def test_big_files_are_sampled_at_both_ends(tmp_path: Path, offset: int) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as sparse:
        sparse.truncate(WHOLE_BYTES + 1)
    before = weights_digest(tmp_path)
    with file.open("r+b") as sparse:
        sparse.seek(offset)
        sparse.write(b"x")
    assert SAMPLE_BYTES < WHOLE_BYTES
    assert weights_digest(tmp_path) != before


def test_weights_that_are_not_safetensors_are_refused(tiny_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_path, tmp_path / "pickled")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled: no \.safetensors file.*save_pretrained"):
        describe_checkpoint(str(copy))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_a_missing_folder_is_named_without_asking_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match=f"model {name}: no such folder"):
        describe_checkpoint(name)


def test_what_is_neither_a_folder_nor_an_id_is_refused() -> None:
    with pytest.raises(ModelError, match="neither a folder nor a valid hub id"):
        describe_checkpoint("not an id")


@pytest.mark.usefixtures("no_network")
def test_without_a_network_the_error_is_one_line_with_the_next_step() -> None:
    with pytest.raises(ModelError, match=r"cannot be reached \(Name or .*give the path") as caught:
        describe_checkpoint("someone/unknown-model")
    assert "\n" not in str(caught.value)


@pytest.fixture
def cached_commit(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The commit of `someone/tiny`, which an earlier download left in the hub's cache."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_path, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return commit


@pytest.mark.usefixtures("no_network")
def test_without_a_network_a_cached_copy_is_used(cached_commit: str) -> None:
    model = load_model("someone/tiny", device="cpu")
    assert (model.name, model.revision) == ("someone/tiny", cached_commit)
    assert model.weights_sha == f"commit:{cached_commit}"


def test_a_hub_model_is_identified_by_its_commit(
    cached_commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hub:
        def model_info(self, name: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(sha=cached_commit)

    monkeypatch.setattr(engine.checkpoints, "HfApi", Hub)
    found = describe_checkpoint("someone/tiny", revision="main")
    assert (found.hub_revision, found.offline) == (cached_commit, False)


def test_a_name_unknown_to_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def model_info(self, name: str, **_: object) -> None:
            raise RepositoryNotFoundError("404", response=MagicMock())

    monkeypatch.setattr(engine.checkpoints, "HfApi", Hub)
    with pytest.raises(ModelError, match=r"someone/no-model: unknown on the hub .*hf auth login"):
        describe_checkpoint("someone/no-model")


def test_a_folder_without_a_usable_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"cannot be loaded: \S") as caught:
        describe_checkpoint(str(tmp_path))
    assert "\n" not in str(caught.value)
