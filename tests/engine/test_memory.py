"""Memory that ran short is told from other errors."""

import pytest
import torch

from engine.memory import is_out_of_memory


def test_an_allocation_that_fails_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as short:
        torch.empty(10**17)
    with pytest.raises(RuntimeError) as wrong:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert is_out_of_memory(short.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert not is_out_of_memory(wrong.value)
