"""Sums of kernels: k(x, y) = Σ_s k_s(x, y), D(x, y)² = Σ_s D_s(x, y)²."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

from dap.errors import OptionError
from dap.kernels.arrays import Array
from dap.kernels.base import KERNELS, Kernel, as_kernel
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["Sum"]


@KERNELS.register("sum")
@dataclass(frozen=True)
class Sum(Kernel):
    """k(x, y) = Σ_s k_s(x, y).

    Args:
        kernels: One or more, each a kernel, its name, or its ``dataclasses.asdict``, ``{"name": …, options}``. A sum
            among them is replaced by its parts.

    Raises:
        OptionError: There is none, or one of them is not a kernel.

    Example:
        >>> Sum(kernels=[{"name": "rbf", "bandwidth": 1.0}, {"name": "linear"}])
        Sum(kernels=(RBF(bandwidth=1.0, name='rbf'), Linear(name='linear')), name='sum')
    """

    kernels: Sequence[Kernel]
    name: str = field(default="sum", init=False)

    def __post_init__(self) -> None:
        """Convert the parts to kernels, and check them."""
        if not isinstance(self.kernels, list | tuple) or not self.kernels:
            raise OptionError(f"kernels: expected a list of one kernel or more, got {self.kernels!r}")
        parts = [part for kernel in map(as_kernel, self.kernels) for part in parts_of(kernel)]
        object.__setattr__(self, "kernels", tuple(parts))

    def resolve(self, y: Array) -> Sum:
        """Return the sum of the kernels with their bandwidths as numbers; ``y`` has shape (m, d)."""
        return Sum(tuple(kernel.resolve(y) for kernel in self.kernels))

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return Σ_s k_s(x_i, y_j)."""
        return functools.reduce(operator.add, (kernel.value(pairs) for kernel in self.kernels))

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return Σ_s D_s(x_i, y_j)²."""
        return functools.reduce(operator.add, (kernel.squared_distance(pairs) for kernel in self.kernels))


def parts_of(kernel: Kernel) -> tuple[Kernel, ...]:
    """Return the kernels of a sum, or the kernel itself.

    Example:
        >>> from dap.kernels import Cosine
        >>> parts_of(Cosine())
        (Cosine(name='cosine'),)
    """
    return tuple(kernel.kernels) if isinstance(kernel, Sum) else (kernel,)
