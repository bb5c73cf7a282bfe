"""The caller's torch state does not reach dap: each public function computes under torch's own defaults.

A program may have set another default dtype or device, and may call dap inside ``torch.autocast``, ``torch.no_grad`` or
``torch.inference_mode``. Each would change or break what dap computes, and what it keeps in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["own_torch_state"]

AUTOCAST = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Compute under torch's defaults until the block, or the decorated function, ends; then the caller's come back.

    The default dtype is float32, the default device the CPU, autocast is off, gradients are on and tensors are no
    inference tensors. Torch keeps the default dtype for the whole process: other threads see float32 meanwhile.

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
        yield
