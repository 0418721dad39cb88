"""Floating-point operations, counted while they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):
    """Counts the matrix products and convolutions within it by torch's own formulas; a multiply-add is two.

    `torch.utils.flop_counter.FlopCounterMode` has the same formulas, but its table by modules hooks into the graph in a
    way that `torch.autograd.grad` refuses, and a training step is made of that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what was asked, and add what it costs."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result


def count_flops(run: Callable[[], object]) -> int:
    """FLOPs of the matrix products and convolutions in a call, all backward passes included.

    What works element by element is not counted, as is usual.
    """
    with FlopCounter() as counter, _plain_kernels():
        run()
    return counter.total


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the libraries' own LSTM and attention: no counter sees into them, and the plain ones do the same."""
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    onednn.enabled = False  # its `flags` would set more than this, and warn of that
    try:
        with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        onednn.enabled = before
