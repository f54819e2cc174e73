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


FAULTS = """
import resource
import torch
from engine.memory import keep_freed_memory

def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        tensors = [torch.ones(2**18) for _ in range(100)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

count_faults()
given_back = count_faults()
assert keep_freed_memory()
count_faults()
print(given_back, count_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    command = [sys.executable, "-c", FAULTS]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    given_back, kept = map(int, told.split())
    assert kept < given_back / 2
