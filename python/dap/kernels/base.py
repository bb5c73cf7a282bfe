"""What a kernel is, what it is computed from, and the table of the kernels' names."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from dap.errors import OptionError
from dap.registry import Registry, unknown_name_error

__all__ = ["KERNELS", "DiagonalPairs", "Kernel", "Pairs", "as_kernel", "by_name", "list_kernels", "positive"]


class Pairs(Protocol):
    """All pairs of rows (x_i, y_j), as a backend computes them: arrays with shape (n, m) unless stated.

    In torch all are differentiable, with a gradient of zero where points coincide or a vector is zero.
    """

    @property
    def xp(self) -> Any:
        """The module with ``exp``, ``expm1``, ``where`` and so on for these arrays: numpy or torch."""

    @property
    def dot(self) -> Any:
        """x_i·y_j."""

    @property
    def squared(self) -> Any:
        """‖x_i − y_j‖², for near points from the differences."""

    @property
    def distance(self) -> Any:
        """‖x_i − y_j‖."""

    @property
    def manhattan(self) -> Any:
        """‖x_i − y_j‖₁."""

    @property
    def x_norm(self) -> Any:
        """‖x_i‖ with shape (n, 1)."""

    @property
    def y_norm(self) -> Any:
        """‖y_j‖ with shape (1, m)."""

    @property
    def unit(self) -> Pairs:
        """The pairs of the rows over their norms; a row of zeros stays zero."""


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


@dataclasses.dataclass(frozen=True)
class DiagonalPairs:
    """Each row paired with itself, (x_i, x_i): pairs with shape (n, 1) and no distance.

    Args:
        xp: numpy or torch.
        dot: ‖x_i‖² with shape (n, 1).
        norm: ‖x_i‖ with shape (n, 1).
    """

    xp: Any
    dot: Any
    norm: Any

    @property
    def squared(self) -> Any:
        """Zero, or NaN for a row of NaN."""
        return self.xp.where(self.norm == self.norm, 0.0, self.norm)

    distance = manhattan = squared

    @property
    def x_norm(self) -> Any:
        """‖x_i‖."""
        return self.norm

    y_norm = x_norm

    @property
    def unit(self) -> DiagonalPairs:
        """Each row over its norm: of norm 1, or 0 for a row of zeros."""
        ones = self.xp.where(self.norm > 0, 1.0, self.norm)
        return DiagonalPairs(self.xp, ones, ones)


KERNELS: Registry[type[Any]] = Registry("kernel")


def by_name(name: str, **options: Any) -> Kernel:
    """The kernel registered as ``name``, made with its options.

    Raises:
        OptionError: If the name, an option's name or an option's value is unknown, or an option is missing.

    Example:
        >>> by_name("rbf", bandwidth=2.0)
        RBF(bandwidth=2.0, name='rbf')
    """
    kind = KERNELS[name]
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    for option in options:
        if option not in known:
            raise unknown_name_error(f"option of the {name} kernel", option, known)
    required = [field.name for field in dataclasses.fields(kind) if field.init and field.default is dataclasses.MISSING]
    if missing := [option for option in required if option not in options]:
        raise OptionError(f"the {name} kernel needs {' and '.join(missing)}: by_name({name!r}, {missing[0]}=...)")
    kernel: Kernel = kind(**options)
    return kernel


def as_kernel(kernel: Any) -> Kernel:
    """The kernel that an option names.

    Args:
        kernel: A name, a dict with a name and options, or a kernel, which is given back.

    Raises:
        OptionError: It is none of these, or :func:`by_name` refuses it.

    Example:
        >>> as_kernel({"name": "rbf", "bandwidth": 2.0})
        RBF(bandwidth=2.0, name='rbf')
    """
    if isinstance(kernel, Kernel):
        return kernel
    options = {"name": kernel} if isinstance(kernel, str) else kernel
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise OptionError(f'kernel: expected a name, a kernel or {{"name": ..., ...}}, got {kernel!r}')
    return by_name(**options)


def list_kernels() -> list[str]:
    """The names of the kernels.

    Example:
        >>> list_kernels()[:3]
        ['cosine', 'distance', 'exponential']
    """
    return sorted(KERNELS)


def positive(name: str, value: Any) -> float:
    """The value of a kernel's parameter as a number.

    Raises:
        OptionError: If it is not a positive finite number.

    Example:
        >>> positive("alpha", 2)
        2.0
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 < float(value) < math.inf:
        return float(value)
    raise OptionError(f"{name} must be a positive finite number, got {value!r}")
