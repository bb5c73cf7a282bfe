"""numpy arrays and torch tensors as arguments, without importing torch for those who do not use it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["is_tensor", "to_numpy"]


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor: there are none before torch was imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(value: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A C-contiguous array of ``dtype`` on the CPU, detached; copied only where that is needed."""
    if is_tensor(value):
        value = value.detach().cpu()
        if value.is_floating_point() and value.itemsize < 4:
            value = value.float()  # numpy has no bfloat16
        value = value.numpy()
    return np.ascontiguousarray(value, dtype=dtype)
