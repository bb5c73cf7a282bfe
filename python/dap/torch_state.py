"""The caller's torch state does not reach dap: each public function computes under torch's own defaults.

A program may have set another default dtype, device or precision of float32 products, and may call dap inside
``torch.autocast``, ``torch.no_grad`` or ``torch.inference_mode``. Each would change or break what dap computes, and
what it keeps in the cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch

__all__ = ["own_torch_state", "tf32_on"]

AUTOCAST = ("cpu", "cuda", "mps", "xpu")
OPERATIONS = [  # of torch 2.9 and later, each with a precision of its own
    getattr(backend, name)
    for backend, names in ((torch.backends.cuda, ("matmul",)), (torch.backends.cudnn, ("conv", "rnn")),
                           (torch.backends.mkldnn, ("matmul", "conv", "rnn")))
    for name in names
    if hasattr(torch.backends, "fp32_precision")
]  # fmt: skip

_tf32: ContextVar[bool | None] = ContextVar("tf32", default=None)


@contextmanager
def own_torch_state(tf32: bool | None = None) -> Iterator[None]:
    """Compute under torch's defaults until the block, or the decorated function, ends; then the caller's come back.

    The default dtype is float32, the default device the CPU, autocast is off, gradients are on and tensors are no
    inference tensors. Torch keeps the default dtype and the precision of products for the whole process: other threads
    see those of dap meanwhile.

    Args:
        tf32: Whether GPUs compute products and convolutions of float32 in TF32, with 10 bits of the fraction. None: as
            the guard around this one says; without one as torch by itself, which uses TF32 in convolutions alone.

    Example:
        >>> torch.set_default_dtype(torch.float64)
        >>> with own_torch_state():
        ...     torch.zeros(1).dtype
        torch.float32
        >>> torch.get_default_dtype()
        torch.float64
        >>> torch.set_default_dtype(torch.float32)
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        if dtype is not torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        stack.callback(_precision.leave, outer := _tf32.get())
        inner = outer if tf32 is None else tf32
        stack.callback(_tf32.reset, _tf32.set(inner))
        _precision.enter(inner)
        yield


def tf32_on(device: torch.device) -> list[str]:
    """Return ["tf32"] if products of float32 are computed in TF32 on this device, else nothing: for keys of caches."""
    return ["tf32"] if _tf32.get() and device.type == "cuda" else []


class _Precision:
    """The precision of float32 products in this process: the first guard saves the caller's, the last restores it."""

    def __init__(self) -> None:
        self._lock, self._guards = threading.Lock(), 0
        self._restore: Callable[[], None] = lambda: None

    def enter(self, tf32: bool | None) -> None:
        """Set the precision of a guard."""
        with self._lock:
            if self._guards == 0:
                self._restore = _saved_precision()
            self._guards += 1
            _set_precision(tf32)

    def leave(self, outer: bool | None) -> None:
        """Set the precision of the guard around, or the caller's."""
        with self._lock:
            self._guards -= 1
            if self._guards:
                _set_precision(outer)
            else:
                self._restore()


_precision = _Precision()


def _set_precision(tf32: bool | None) -> None:
    torch.set_float32_matmul_precision("highest")  # of CPUs too, some of which have bfloat16
    products, convolutions = tf32 is True, tf32 is not False
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions
    for operation, lower in zip(OPERATIONS, (products, convolutions, convolutions, *(False,) * 3), strict=False):
        operation.fp32_precision = "tf32" if lower else "ieee"


def _saved_precision() -> Callable[[], None]:
    """Return a function that restores the precision as it is now."""
    new = [operation.fp32_precision for operation in OPERATIONS]
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by torch's newer options, of which the older ones do not know
        products = "high" if _older(torch.backends.cuda.matmul, new[0]) else "highest"
    convolutions = _older(torch.backends.cudnn, new[1] if new else "")

    def restore() -> None:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
        for operation, precision in zip(OPERATIONS, new, strict=True):
            operation.fp32_precision = precision

    return restore


def _older(backend: Any, newer: str) -> bool:
    """Return torch's older option ``allow_tf32``, which cannot be read where the newer one is set to something else."""
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:
        return newer != "tf32"
