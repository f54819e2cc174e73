"""Memory that ran short is told from other errors."""

import platform
import subprocess
import sys

import pytest
import torch

from engine.memory import is_out_of_memory
from tests.conftest import ROOT


def test_an_allocation_that_fails_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as short:
        torch.empty(10**17)
    with pytest.raises(RuntimeError) as wrong:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert is_out_of_memory(short.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert not is_out_of_memory(wrong.value)


HELD = """
import resource
from pathlib import Path
import torch
from engine.memory import keep_freed_memory

def count_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

assert keep_freed_memory()
torch.ones(2**18)
before = count_bytes()
tensors = [torch.ones(2**18) for _ in range(100)]
del tensors
print(count_bytes() - before)
"""
"""Says how much of 100 MiB of tensors the process still holds once they are freed."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_stays_with_the_process() -> None:
    command = [sys.executable, "-c", HELD]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(told) > 50 * 2**20
