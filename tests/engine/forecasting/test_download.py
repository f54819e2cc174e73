"""What is missing of a model in the hub's cache is known without asking the hub."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.checkpoints import Checkpoint, describe_checkpoint
from engine.forecasting.download import download_room

COMMIT = "c" * 40


@pytest.fixture
def checkpoint(tiny_path: Path) -> Checkpoint:
    here = describe_checkpoint(str(tiny_path))
    return replace(here, name="someone/tiny", source="someone/tiny", revision=COMMIT)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of one commit in a cache of the hub, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--tiny" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


def missing(checkpoint: Checkpoint) -> int:
    room = download_room(checkpoint, 1000)
    return 0 if room is None else room.needed


@pytest.mark.usefixtures("snapshot")
def test_nothing_cached_is_expected_in_the_checkpoints_own_type(checkpoint: Checkpoint) -> None:
    assert missing(checkpoint) == 4000
    checkpoint.config.dtype = "bfloat16"
    assert missing(checkpoint) == 2000


def test_one_file_that_is_there_is_all(checkpoint: Checkpoint, snapshot: Path) -> None:
    (snapshot / "model.safetensors").write_bytes(b"x")
    assert download_room(checkpoint, 1000) is None


def test_of_several_files_those_that_are_there_do_not_count(
    checkpoint: Checkpoint, snapshot: Path, tmp_path: Path
) -> None:
    listed = {"metadata": {"total_size": 900}, "weight_map": {}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(listed))
    (snapshot / "model-00001-of-00002.safetensors").write_bytes(bytes(500))
    room = download_room(checkpoint, 1000)
    assert room is not None
    assert (room.needed, room.source) == (400, f"free at {tmp_path}")
    (snapshot / "model-00002-of-00002.safetensors").write_bytes(bytes(410))
    assert download_room(checkpoint, 1000) is None


def test_a_folder_needs_no_download(tiny_path: Path) -> None:
    assert download_room(describe_checkpoint(str(tiny_path)), 1000) is None
