"""What a machine has left is the least of what it has and what each group above allows."""

from collections import namedtuple
from pathlib import Path

import pytest
import torch

from engine.forecasting.machine import (
    available_memory,
    cards,
    device_name,
    free_disk,
    inspect_machine,
    multiplying_rate,
)

MIB = 1 << 20
Usage = namedtuple("Usage", "total used free")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  4096 kB\nMemFree: 10 kB\nMemAvailable:    2048 kB\n"}


def test_the_kernel_says_what_is_available(tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, MEMINFO)) == (2 * MIB, "MemAvailable")


def test_a_lower_limit_of_any_group_above_counts_and_files_it_keeps_do_not(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a/b"
    root = write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "0::/a/b\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": "5\n",
            "sys/fs/cgroup/a/memory.max": f"{3 * MIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{2 * MIB}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 7\ninactive_file {MIB // 2}\n",
        },
    )
    found, source = available_memory(root)
    assert found == MIB + MIB // 2
    assert source == f"control group {root / 'sys/fs/cgroup/a'}"


@pytest.mark.parametrize(("limit", "expected"), [(MIB, MIB - 100), (1 << 63, 2 * MIB)])
def test_groups_of_the_first_version_count_unless_their_limit_is_none(
    tmp_path: Path, limit: int, expected: int
) -> None:
    group = "sys/fs/cgroup/memory"
    root = write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "5:cpu:/\n4:memory:/seen/from/the/host\n0::/\n",
            f"{group}/memory.limit_in_bytes": f"{limit}\n",
            f"{group}/memory.usage_in_bytes": "100\n",
        },
    )
    assert available_memory(root)[0] == expected


def test_a_group_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    group = "sys/fs/cgroup"
    files = {f"{group}/memory.max": "100\n", f"{group}/memory.current": "170\n"}
    root = write(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/\n", **files})
    assert available_memory(root)[0] == 0


def test_without_any_of_these_files_the_system_is_asked(tmp_path: Path) -> None:
    found, source = available_memory(tmp_path)
    assert found > 0
    assert source == "physical memory"


def test_a_folder_that_is_not_there_yet_counts_where_it_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(9, 4, 5)

    monkeypatch.setattr("shutil.disk_usage", usage)
    assert free_disk(tmp_path / "not" / "there") == 5
    assert asked == [tmp_path]


def test_this_machine_is_described(tmp_path: Path) -> None:
    machine = inspect_machine(tmp_path)
    assert min(machine.disk, machine.memory, machine.cores) > 0
    assert len(machine.cards) == torch.cuda.device_count()


def test_cards_are_listed_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10 + index, 100))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device}")
    assert [(card.name, card.free, card.total) for card in cards()] == [
        ("Card 0", 10, 100),
        ("Card 1", 11, 100),
    ]
    assert device_name(torch.device("cuda:1")) == "Card cuda:1"
    assert device_name(torch.device("cpu")) == "cpu"


def test_products_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.forecasting.machine.MEASURE_S", 0.02)
    assert multiplying_rate(torch.device("cpu"), torch.float32) > 1e6
