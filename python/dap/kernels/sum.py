"""Sums of kernels: k(x, y) = Σ_s k_s(x, y), D(x, y)² = Σ_s D_s(x, y)²."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dap.errors import OptionError
from dap.kernels.base import KERNELS, Kernel, Pairs, by_name

__all__ = ["Sum"]


@KERNELS.register("sum")
@dataclass(frozen=True)
class Sum:
    """k(x, y) = Σ_s k_s(x, y).

    Args:
        kernels: One or more, each a kernel or what ``dataclasses.asdict`` makes of one, ``{"name": …, options}``; sums
            among them are taken apart.

    Raises:
        OptionError: If there is none, or one is not a kernel.

    Example:
        >>> Sum(kernels=[{"name": "rbf", "bandwidth": 1.0}, {"name": "linear"}])
        Sum(kernels=(RBF(bandwidth=1.0, name='rbf'), Linear(name='linear')), name='sum')
    """

    kernels: Sequence[Kernel]
    name: str = field(default="sum", init=False)

    def __post_init__(self) -> None:
        """Makes kernels of dicts."""
        if not isinstance(self.kernels, list | tuple) or not self.kernels:
            raise OptionError(f"kernels must be a list of one kernel or more, got {self.kernels!r}")
        object.__setattr__(self, "kernels", tuple(part for each in self.kernels for part in _parts(each)))

    def resolve(self, y: Any) -> Sum:
        """The sum of the kernels with their bandwidths as numbers; ``y`` has shape (m, d)."""
        return Sum(tuple(kernel.resolve(y) for kernel in self.kernels))

    def value(self, pairs: Pairs) -> Any:
        """Σ_s k_s(x_i, y_j)."""
        return functools.reduce(operator.add, (kernel.value(pairs) for kernel in self.kernels))

    def squared_distance(self, pairs: Pairs) -> Any:
        """Σ_s D_s(x_i, y_j)²."""
        return functools.reduce(operator.add, (kernel.squared_distance(pairs) for kernel in self.kernels))


def _parts(each: Any) -> tuple[Any, ...]:
    if isinstance(each, Mapping):
        options = dict(each)
        if "name" not in options:
            raise OptionError(f'a kernel as a dict has a "name", got {options!r}')
        each = by_name(**options)
    if not isinstance(each, Kernel):
        raise OptionError(f"kernels must hold kernels or dicts, got {each!r}")
    return tuple(each.kernels) if isinstance(each, Sum) else (each,)
