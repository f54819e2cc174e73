"""Linear products on a CPU by oneDNN instead of MKL, torch's choice for float32.

MKL keeps from processors that are not Intel's the widest of their instructions: on an AMD EPYC with
AVX-512 a float32 product takes it twice as long. Knows nothing of models.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn


def has_onednn() -> bool:
    """Whether this build of torch can multiply with oneDNN."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available


def multiply(given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """given [..., in] times weight [out, in], transposed: [..., out], in float32 on a CPU."""
    came: Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
    return came


@contextmanager
def fast_products(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let the linear modules among these multiply with oneDNN while the block runs.

    Only float32 ones on a CPU; the others, and all without oneDNN, stay as they are. Another order
    of sums: results differ in the last bits. Nothing is left behind, whatever happens.
    """
    linear = (module for module in modules if isinstance(module, nn.Linear))
    chosen = [module for module in linear if has_onednn() and _suits(module)]
    for module in chosen:
        module.forward = partial(_forward, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in chosen:
            del module.__dict__["forward"]


def _suits(module: nn.Linear) -> bool:
    # A subclass, or a module whose forward somebody has replaced, means to compute otherwise.
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    return module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"


def _forward(module: nn.Linear, given: Tensor) -> Tensor:
    return multiply(given, module.weight, module.bias)
