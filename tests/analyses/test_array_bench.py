"""Laws of the bench of arrays: it measures what it says, checks its vectors and cleans up."""

import os
import shutil
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest

from analyses.array_bench import ArrayBench, Pass, measure_arrays
from stores.errors import UsageError

measure = partial(measure_arrays, layers=2, d_model=16, chunk_rows=64)


def test_a_small_run_measures_everything_and_leaves_nothing(tmp_path: Path) -> None:
    steps: list[str] = []
    found = measure(tmp_path / "bench", rows=400, watch=steps.append)
    assert (found.stories, found.dialogues, found.layers, found.d_model) == (400, 3, 2, 16)
    assert found.array_bytes == 2 * (7 + 1) * (64 * 16 * 4 + 4)
    assert found.worst_error < 1e-12
    assert (found.cold is not None) == hasattr(os, "posix_fadvise")
    for reading in filter(None, (found.cold, found.warm)):
        assert 0.0 < reading.plain_s < reading.vectors_s
        assert reading.cpu_s > 0.0
    assert min(found.write_rate, found.plain_write_rate, found.ledger_s) > 0.0
    assert 20e6 < found.peak_memory < 1e9
    assert steps == ["making the ledger", "writing", "reading"]
    assert list(tmp_path.iterdir()) == []


def test_the_rows_tell_speed_as_a_share_of_plain_reading() -> None:
    bench = ArrayBench(
        stories=205_200,
        dialogues=1200,
        layers=4,
        d_model=4096,
        array_bytes=10_000_000_000,
        ledger_s=9.0,
        write_rate=2e8,
        plain_write_rate=4e8,
        cold=Pass(plain_s=10.0, vectors_s=12.5, cpu_s=7.0),
        warm=Pass(plain_s=2.0, vectors_s=5.0, cpu_s=6.0),
        peak_memory=300 * 2**20,
        worst_error=1e-15,
    )
    rows = dict(bench.rows())
    assert rows["arrays"] == "205,200 stories, 1,200 dialogues x 4,096, 4 layers: 10.00 GB"
    assert rows["vectors, cold"] == "800 MB/s, 12.5 s, processor 7.0 s"
    assert rows["vectors / plain reading, cold"] == "80%"
    assert rows["vectors / plain reading, warm"] == "40%"
    assert rows["memory at most, to read"] == "300 MiB"
    assert rows["writing / plain writing"] == "50%"


def test_a_folder_that_is_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        measure(tmp_path, rows=400)
    assert (tmp_path / "mine").read_text() == "precious"


def test_halves_need_two_stories_of_every_emotion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"341 rows are too few.* 342"):
        measure(tmp_path / "bench", rows=341)
    assert not (tmp_path / "bench").exists()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(50_000))
    with pytest.raises(UsageError, match=r"room for 0\.0 GB.*another disk"):
        measure(tmp_path / "bench", rows=400)
    assert not any(tmp_path.glob("bench/*"))
