"""What a kernel is, and the table of their names."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

from dap.registry import Registry, unknown_name

__all__ = ["KERNELS", "Kernel", "Pairs", "by_name", "list_kernels"]


class Pairs(Protocol):
    """All pairs of rows (x_i, y_j), as a backend computes them: arrays with shape (n, m)."""

    @property
    def xp(self) -> Any:
        """The module with ``exp`` and ``expm1`` for these arrays: numpy or torch."""

    @property
    def dot(self) -> Any:
        """x_i·y_j."""

    @property
    def squared(self) -> Any:
        """‖x_i − y_j‖², from the differences; its gradient is zero where the points coincide."""


@runtime_checkable
class Kernel(Protocol):
    """A positive semi-definite k(x, y): a frozen dataclass, JSON-able by ``dataclasses.asdict``."""

    @property
    def name(self) -> str:
        """The name it is registered under."""

    def resolve(self, y: Any) -> Kernel:
        """The same kernel with every parameter that depends on the data as a number; ``y`` has shape (m, d)."""

    def value(self, pairs: Pairs) -> Any:
        """k(x_i, y_j) with shape (n, m)."""

    def squared_distance(self, pairs: Pairs) -> Any:
        """D(x_i, y_j)² with shape (n, m), in a form that does not cancel where the points are near."""


KERNELS: Registry[type[Any]] = Registry("kernel")


def by_name(name: str, **options: Any) -> Kernel:
    """The kernel registered as ``name``, made with its options.

    Raises:
        OptionError: If the name, an option's name or an option's value is unknown.

    Example:
        >>> by_name("rbf", bandwidth=2.0)
        RBF(bandwidth=2.0, name='rbf')
    """
    kind = KERNELS[name]
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the {name} kernel", option, known)
    kernel: Kernel = kind(**options)
    return kernel


def list_kernels() -> list[str]:
    """The names of the kernels.

    Example:
        >>> list_kernels()
        ['linear', 'rbf']
    """
    return sorted(KERNELS)
