"""Types and conversions of numpy arrays and torch tensors; importing this module does not import torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs

__all__ = [
    "DOUBLE", "SINGLE", "Array", "Rows", "detached", "dtype_name", "give_back", "is_double", "is_tensor", "to_numpy",
]  # fmt: skip

Array: TypeAlias = "np.ndarray | torch.Tensor"
"""A numpy array or a torch tensor."""

Rows = TypeVar("Rows", np.ndarray, "torch.Tensor")
"""A function that takes arrays returns an array; one that takes tensors returns a tensor."""

SINGLE = {"float16", "bfloat16", "float32"}
"""The dtypes that are computed in float32."""

DOUBLE = {"float64", "bool"} | {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
"""The dtypes that are computed in float64."""


def is_tensor(value: object) -> TypeIs[torch.Tensor]:
    """Return whether ``value`` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_name(rows: Array) -> str:
    """Return the dtype's name, the same for arrays and tensors: "float32", "bfloat16", "int64", "bool"."""
    return str(rows.dtype).removeprefix("torch.") if is_tensor(rows) else str(rows.dtype.name)


def is_double(*rows: Array | None) -> bool:
    """Return whether to compute in float64 (one of ``rows`` is float64, integer or bool) and not in float32."""
    return any(dtype_name(array) not in SINGLE for array in rows if array is not None)


def to_numpy(value: Array, dtype: npt.DTypeLike) -> np.ndarray:
    """Return a C-contiguous array of ``dtype`` on the CPU, detached; the data is copied only where it must be."""
    if is_tensor(value):
        value = value.detach().cpu()
        value = (value.float() if dtype_name(value) == "bfloat16" else value).numpy()  # numpy has no bfloat16
    return np.asarray(value, dtype=dtype, order="C")


def detached(rows: Rows) -> Rows:
    """Return a tensor without its graph; return an array as it is."""
    return rows.detach() if is_tensor(rows) else rows


def give_back(result: Array, like: Rows, *others: Array | None) -> Rows:
    """Convert a backend's result to the kind of the caller's arguments.

    Args:
        result: The result, of any kind.
        like: The caller's first argument: an array gives a float64 array, a tensor gives a tensor on its device.
        others: The caller's other arguments; they and ``like`` decide the dtype of a tensor (:func:`is_double`).

    Returns:
        The result; integers, which are indices, stay int64.
    """
    integer = dtype_name(result) == "int64"
    if not is_tensor(like):
        return to_numpy(result, np.int64 if integer else np.float64)
    import torch

    dtype = torch.int64 if integer else torch.float64 if is_double(like, *others) else torch.float32
    return torch.as_tensor(result).to(like.device, dtype)
