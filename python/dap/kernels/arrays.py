"""numpy arrays and torch tensors as arguments, without importing torch for those who do not use it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError

__all__ = ["check_one_kind", "check_rows", "detached", "dtype_name", "give_back", "is_double", "is_tensor", "to_numpy"]

_SINGLE = {"float16", "bfloat16", "float32"}
_DOUBLE = {"float64", "bool"} | {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor: there are none before torch was imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_name(rows: Any) -> str:
    """The dtype's name, the same for arrays and tensors: "float32", "bfloat16", "int64", "bool"."""
    return str(rows.dtype).removeprefix("torch.") if is_tensor(rows) else str(rows.dtype.name)


def is_double(*rows: Any) -> bool:
    """Whether these are computed with in float64: when one of them is float64, integer or bool; otherwise float32."""
    return any(dtype_name(each) not in _SINGLE for each in rows if each is not None)


def to_numpy(value: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A C-contiguous array of ``dtype`` on the CPU, detached; copied only where that is needed."""
    if is_tensor(value):
        value = value.detach().cpu()
        value = (value.float() if dtype_name(value) == "bfloat16" else value).numpy()  # numpy has no bfloat16
    return np.asarray(value, dtype=dtype, order="C")


def detached(rows: Any) -> Any:
    """A tensor without its graph; an array as it is."""
    return rows.detach() if is_tensor(rows) else rows


def give_back(result: Any, *given: Any) -> Any:
    """A backend's result as what was given: float64 arrays, or tensors of the compute dtype on the first one's device.

    Integers, which are indices, stay int64.
    """
    integer = dtype_name(result) == "int64"
    if not is_tensor(given[0]):
        return to_numpy(result, np.int64 if integer else np.float64)
    import torch

    dtype = torch.int64 if integer else torch.float64 if is_double(*given) else torch.float32
    return torch.as_tensor(result).to(given[0].device, dtype)


def check_rows(**named: Any) -> None:
    """Refuses what is not rows of real numbers with one number of features, of one kind, on one device.

    Args:
        named: The arguments by their names; None stands for "the same as the first".

    Raises:
        OptionError: With the names in its message.
    """
    present = {name: rows for name, rows in named.items() if rows is not None}
    first, x = next(iter(named.items()))
    for name, rows in present.items():
        _check_matrix(name, rows)
        check_one_kind(first, x, name, rows)
        if rows.shape[1] != x.shape[1]:
            raise OptionError(
                f"{first} and {name} must have the same number of features, got {x.shape[1]} and {rows.shape[1]}"
            )


def check_one_kind(first: str, x: Any, name: str, value: Any) -> None:
    """Refuses a tensor beside an array, and tensors on two devices."""
    if is_tensor(x) != is_tensor(value):
        raise OptionError(f"{first} and {name} must be of one kind, got {type(x).__name__} and {type(value).__name__}")
    if is_tensor(x) and x.device != value.device:
        raise OptionError(f"{first} and {name} must be on one device, got {x.device} and {value.device}")


def _check_matrix(name: str, rows: Any) -> None:
    if not (is_tensor(rows) or isinstance(rows, np.ndarray)):
        raise OptionError(f"{name} must be a numpy array or a torch tensor, got {type(rows).__name__}")
    if rows.ndim != 2:
        raise OptionError(f"{name} must have 2 dimensions (rows, features), got shape {tuple(rows.shape)}")
    if dtype_name(rows) not in _SINGLE | _DOUBLE:
        raise OptionError(
            f"{name} must hold real numbers (float16, bfloat16, float32, float64, integers or bools), "
            f"got dtype {rows.dtype}"
        )
