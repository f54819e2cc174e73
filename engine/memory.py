"""Tells memory that ran short from other errors. Knows nothing of what the memory was for."""

import torch

_SHORT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocator of torch, of a card or of the CPU, found no memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(name in str(error) for name in _SHORT_OF_MEMORY)
