"""``cuda`` where there is a GPU, the CPU where there is none: what lets the quickstart's cards run on any machine.

torch itself is left as it is. The model and the batches of `DMCVBDataset` know how to stay; a tensor of the user's own
that is sent to a missing GPU still fails as torch says.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch


def at_hand(place: Any) -> Any:
    """`place`, or the CPU with a warning where it names a GPU and this machine has none.

    Anything that is not a device (a dtype, a flag) passes through, so that it can stand before `torch.Tensor.to`.
    """
    named = isinstance(place, torch.device) or (isinstance(place, str) and place.split(":")[0] == "cuda")
    if named and torch.device(place).type == "cuda" and not torch.cuda.is_available():
        warnings.warn("no CUDA device was found here, so this stays on the CPU", stacklevel=3)
        return torch.device("cpu")
    return place


class PortableTensor(torch.Tensor):
    """A batch on its way to a device: ``.to('cuda')`` stays on the CPU where there is no GPU, with a warning.

    What `to` returns is a plain tensor, and so is the result of any computation with one.
    """

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """`torch.Tensor.to`."""
        places = [at_hand(a) for a in args]
        return self.as_subclass(torch.Tensor).to(*places, **{name: at_hand(value) for name, value in kwargs.items()})

    def cuda(self, device: Any = None, **options: Any) -> torch.Tensor:  # type: ignore[override]
        """`torch.Tensor.cuda`."""
        return self.to("cuda" if device is None else device, **options)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Only putting items together keeps a batch portable; everything else computes with plain tensors."""
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func in _KEEP or not isinstance(result, PortableTensor):
            return result
        return result.as_subclass(torch.Tensor)


# What a DataLoader does to a batch: collate it, and pin it.
_KEEP = {torch.stack, torch.Tensor.as_subclass, torch.Tensor.pin_memory, torch.Tensor.requires_grad_}
