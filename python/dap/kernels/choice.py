"""Which backend computes a reduction, and why.

| backend | computes in | chosen by "auto" for |
|---|---|---|
| torch | float32 or float64 | gradients, accelerators; the user's own kernels on tensors and large arrays |
| rust | float32 or float64, sums in float64 | everything else on the CPU |
| numpy | float64, row by row by the definition | the user's own kernels on small arrays |
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from dap.errors import OptionError
from dap.kernels import backend_rust
from dap.kernels.arrays import check_rows, is_tensor
from dap.kernels.base import Kernel, by_name
from dap.kernels.linear import Linear
from dap.registry import unknown_name_error

__all__ = ["BACKENDS", "LINEAR", "Choice", "as_kernel", "choose", "explain", "module_of"]

BACKENDS = ("auto", "numpy", "rust", "torch")
LINEAR = Linear()

SMALL = 1 << 24
"""Numbers n·m·d up to which numpy, row by row, takes less time than the import of torch."""


@dataclass(frozen=True)
class Choice:
    """A backend and why it was chosen; as text, a sentence.

    Attributes:
        backend: "torch", "rust" or "numpy".
        reason: Half a sentence.
    """

    backend: str
    reason: str

    def __str__(self) -> str:
        return f"The {self.backend} backend computes this: {self.reason}."


def explain(x: Any, y: Any = None, kernel: Kernel | str = LINEAR, backend: str = "auto") -> Choice:
    """The backend that a reduction of these arguments would use, and why; nothing is computed.

    Args:
        x: Array or tensor with shape (n, d).
        y: Array or tensor with shape (m, d); None for x itself.
        kernel: A kernel or its name.
        backend: "auto", "numpy", "rust" or "torch".

    Raises:
        OptionError: Where the reduction would refuse these arguments or the backend.

    Example:
        >>> import numpy as np
        >>> print(explain(np.zeros((2, 3)), kernel="rbf"))
        The rust backend computes this: the rows are on the CPU and kernel 'rbf' is compiled.
    """
    check_rows(x=x, y=y)
    return choose(as_kernel(kernel), backend, x, y)


def as_kernel(kernel: Kernel | str) -> Kernel:
    """The kernel itself, or the one of that name with its defaults."""
    found = by_name(kernel) if isinstance(kernel, str) else kernel
    if isinstance(found, type) or not isinstance(found, Kernel):
        raise OptionError(f"kernel must be a kernel or the name of one, got {kernel!r}: try dap.kernels.RBF()")
    return found


def choose(kernel: Kernel | None, backend: str, x: Any, *others: Any) -> Choice:
    """The choice for arguments that are checked already; ``kernel`` None stands for the Euclidean distance."""
    if backend not in BACKENDS:
        raise unknown_name_error("backend", backend, BACKENDS)
    rows = [x, *(each for each in others if each is not None)]
    gradient = is_tensor(x) and _needs_gradient(*rows)
    compiled = kernel is None or backend_rust.supports(kernel)
    name = "the distance" if kernel is None else f"kernel {kernel.name!r}"
    if backend == "rust" and not compiled:
        raise OptionError(f"the rust backend has no {name}: use backend='torch' or 'numpy'")
    if backend not in ("auto", "torch") and gradient:
        raise OptionError(f"the {backend} backend has no gradient: use backend='torch', or detach x and y")
    if backend != "auto":
        return Choice(backend, "it was asked for")
    if gradient:
        return Choice("torch", "an argument needs a gradient")
    if is_tensor(x) and x.device.type != "cpu":
        return Choice("torch", f"the rows are on {x.device}")
    if compiled:
        return Choice("rust", f"the rows are on the CPU and {name} is compiled")
    if is_tensor(x):
        return Choice("torch", f"{name} is not compiled and the rows are tensors")
    size = len(x) * max(len(each) for each in rows) * x.shape[1]
    if size <= SMALL:
        return Choice("numpy", f"{name} is not compiled and the arrays are small")
    return Choice("torch", f"{name} is not compiled and the arrays are large")


def module_of(choice: Choice) -> ModuleType:
    """The module with the chosen backend's reductions; imported here, so that numpy's users import no torch."""
    return importlib.import_module(f"dap.kernels.backend_{choice.backend}")


def _needs_gradient(*rows: Any) -> bool:
    import torch

    return torch.is_grad_enabled() and any(each.requires_grad for each in rows)
