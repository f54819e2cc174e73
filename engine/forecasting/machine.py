"""What this machine has left: disk, memory, cores and cards, as plain numbers.

Reads /proc and the limits of the control groups above this process; where there is neither, the
operating system is asked. Knows nothing of what the room is wanted for.
"""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path("/")
MEASURE_S = 0.3
_UNLIMITED = 1 << 60
"""A limit as high as this is none: the first control groups wrote a number where v2 says 'max'."""


@dataclass(frozen=True, slots=True)
class Card:
    """A CUDA card; bytes."""

    index: int
    name: str
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What is free, in bytes, where the workspace is and where this process runs."""

    disk: int
    memory: int
    memory_source: str
    """What set the bound: 'MemAvailable' or the limit of a control group."""
    cores: int
    cards: tuple[Card, ...]


def inspect_machine(folder: Path, *, root: Path = ROOT) -> Machine:
    """Look at the disk that `folder` is on, or will be, and at this process's memory and cards."""
    memory, source = available_memory(root)
    return Machine(free_disk(folder), memory, source, cores(), cards())


def free_disk(folder: Path) -> int:
    """Bytes that this user may still write where `folder` is or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def cores() -> int:
    """Cores that this process may run on."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def available_memory(root: Path = ROOT) -> tuple[int, str]:
    """(bytes, what set the bound): the least of what the machine and each control group have."""
    limits = [*_machine_memory(root), *_group_memory(root)]
    return min(limits) if limits else (_physical_memory(), "physical memory")


def cards() -> tuple[Card, ...]:
    """The CUDA cards, each with what is free now."""
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Card(index, torch.cuda.get_device_name(index), free, total))
    return tuple(found)


def _machine_memory(root: Path) -> Iterator[tuple[int, str]]:
    facts = _facts(root / "proc" / "meminfo")
    if "MemAvailable" in facts:
        yield facts["MemAvailable"] * 1024, "MemAvailable"


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_memory(root: Path) -> Iterator[tuple[int, str]]:
    """What is left of every limit above this process: its own group's and those around it."""
    for folder, limit, used, idle in _groups(root):
        bound, taken = _number(folder / limit), _number(folder / used)
        if bound is not None and taken is not None and bound < _UNLIMITED:
            # Files kept in memory count as used, and give way when memory is asked for.
            kept = _facts(folder / "memory.stat").get(idle, 0)
            yield max(bound - taken + kept, 0), f"control group {folder}"


def _groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Folders of groups, with the names of the limit, the use and the idle files in each."""
    top = root / "sys" / "fs" / "cgroup"
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    second = ("memory.max", "memory.current", "inactive_file")
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = top, second
        elif "memory" in controllers.split(","):
            base, names = top / "memory", first
        else:
            continue
        own = base / path.strip().lstrip("/")
        # Inside a container the path is often the host's; what is mounted here is the group itself.
        for folder in (own, *own.parents):
            if folder.is_relative_to(base):
                yield folder, *names


def _facts(path: Path) -> dict[str, int]:
    """Lines of 'name: number unit' or 'name number'."""
    words = [line.replace(":", " ").split() for line in _lines(path)]
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}


def _number(path: Path) -> int | None:
    found = "".join(_lines(path)).strip()
    return int(found) if found.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def device_name(device: torch.device) -> str:
    """What a device is, not where it is plugged in: 'cpu', or the name of the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def multiplying_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in products of large matrices; takes about 0.3 s."""
    width = 4096 if device.type == "cuda" else 768
    factor = torch.randn(width, width).to(device, dtype)
    _multiply(factor)
    products, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < MEASURE_S or products == 0:
        _multiply(factor)
        products += 1
    return products * 2 * width**3 / elapsed


def _multiply(factor: torch.Tensor) -> None:
    product = factor @ factor
    if product.is_cuda:
        torch.cuda.synchronize(product.device)
