"""Tells memory that ran short from other errors, and keeps freed memory at hand.

Knows nothing of what the memory was for.
"""

import ctypes
import functools

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


# Of malloc.h: which allocations are mapped one by one, and how much freed memory is kept.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT, _KEPT = 32 * 2**20, 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next tensor; False where the C library has no such say.

    It gives large blocks back to the system at once, and the next ones are new pages to be cleared:
    a quarter of the time of a sweep on a CPU, with twenty times the page faults.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, _KEPT))
    return bool(mallopt(*settings[0]) and mallopt(*settings[1]))
