"""The base class of the kernels, and the registry of their names."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias, cast

import numpy as np

from dap.config import check_number
from dap.errors import OptionError
from dap.kernels.pairs import ArrayT, Pairs
from dap.registry import Registry, unknown_name_error
from dap.seams import Seam, check_class

if TYPE_CHECKING:
    from typing import Self

    from dap.kernels.arrays import Array

__all__ = ["KERNELS", "Kernel", "KernelLike", "as_kernel", "by_name", "list_kernels", "positive"]


@dataclass(frozen=True)
class Kernel(Seam):
    """A positive semi-definite kernel k(x, y). Its subclasses are frozen dataclasses whose fields are its options.

    A subclass has the parts ``name``, ``resolve``, ``value`` and ``squared_distance``. If one is missing, making an
    object or registering the class raises an error.

    Raises:
        OptionError: The class lacks a part, or is not a frozen dataclass.

    Example:
        >>> @dataclass(frozen=True)
        ... class Doubled(Kernel):
        ...     name: str = "doubled"
        ...     def resolve(self, y):
        ...         return self
        ...     def value(self, pairs):
        ...         return 2 * pairs.dot
        >>> Doubled()
        Traceback (most recent call last):
        dap.errors.OptionError: kernel Doubled lacks squared_distance
    """

    seam: ClassVar[str] = "kernel"

    def __new__(cls, *arguments: object, **options: object) -> Self:
        """Create the object if its class has all parts and is a frozen dataclass."""
        check_kernel(cls)
        return super().__new__(cls)

    @property
    @abstractmethod
    def name(self) -> str:
        """The name under which it is registered; subclasses have it as a field, so that it is in their JSON."""

    @abstractmethod
    def resolve(self, y: Array) -> Kernel:
        """Return the kernel with a number for each option that depends on the data ``y``, with shape (m, d)."""

    @abstractmethod
    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return k(x_i, y_j) with shape (n, m)."""

    @abstractmethod
    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return k(x_i, x_i) + k(y_j, y_j) − 2 k(x_i, y_j) with shape (n, m), without cancellation for near points."""


def check_kernel(kind: type[Kernel]) -> None:
    """Raise unless a kernel can be made of this class.

    Raises:
        OptionError: It names what is missing.
    """
    check_class(kind, Kernel)
    if not isinstance(kind.name, str):
        raise OptionError(f"kernel {kind.__name__} lacks name: give the field a default")


KERNELS: Registry[type[Kernel]] = Registry("kernel", check=check_kernel)


def by_name(name: str, **options: object) -> Kernel:
    """Make the kernel that is registered as ``name`` with these options.

    Raises:
        OptionError: The name, an option's name or an option's value is unknown, or an option is missing.

    Example:
        >>> by_name("rbf", bandwidth=2.0)
        RBF(bandwidth=2.0, name='rbf')
    """
    kind = KERNELS[name]
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for option in options:
        if option not in fields:
            raise unknown_name_error(f"option of the {name} kernel", option, fields)
    required = [option for option, field in fields.items() if field.default is dataclasses.MISSING]
    if missing := [option for option in required if option not in options]:
        raise OptionError(f"the {name} kernel needs {' and '.join(missing)}: by_name({name!r}, {missing[0]}=...)")
    return kind(**options)


KernelLike: TypeAlias = str | Mapping[str, object] | Kernel
"""A kernel, its name, or a mapping such as {"name": "rbf", "bandwidth": 3.0}."""


def as_kernel(kernel: KernelLike) -> Kernel:
    """Return the kernel that an option describes.

    Args:
        kernel: A name, a dict with a name and options, or a kernel, which is returned as it is.

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
    return by_name(**options)  # type: ignore[arg-type]


def list_kernels() -> list[str]:
    """Return the names of the kernels.

    Example:
        >>> list_kernels()[:3]
        ['cosine', 'distance', 'exponential']
    """
    return sorted(KERNELS)


def positive(name: str, value: object) -> float:
    """Return an option's value as a float; raise unless it is a positive finite number.

    Raises:
        OptionError: It names the option and the value.

    Example:
        >>> positive("alpha", 2)
        2.0
    """
    number = value.item() if isinstance(value, np.generic) else value
    check_number(name, number, above=0)
    return float(cast(float, number))
