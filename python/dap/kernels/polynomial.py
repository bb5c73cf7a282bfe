"""The polynomial kernel: k(x, y) = (x·y + c)^p.

With a = ‖x‖² + c, b = ‖y‖² + c, g = x·y + c, s = ‖x − y‖², so that u = a − g = (a − b + s)/2 and
v = b − g = (b − a + s)/2 with u + v = s, the binomial theorem gives a form that does not cancel for near points:

    D² = (g + u)^p + (g + v)^p − 2 g^p = p g^(p−1) s + Σ_{q=2..p} C(p, q) g^(p−q) (u^q + v^q)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from dap.config import check_number, check_whole
from dap.kernels.arrays import Array
from dap.kernels.base import KERNELS, Kernel
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["Polynomial"]


@KERNELS.register("polynomial")
@dataclass(frozen=True)
class Polynomial(Kernel):
    """k(x, y) = (x·y + c)^degree.

    Args:
        degree: A whole number, 1 or more.
        c: A finite number, 0 or more: the weight of the lower degrees.

    Raises:
        OptionError: An option is outside its range.

    Example:
        >>> import numpy as np
        >>> from dap.kernels import row_sums
        >>> row_sums(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), Polynomial(degree=2, c=1.0))
        array([144.])
    """

    degree: int = 2
    c: float = 1.0
    name: str = field(default="polynomial", init=False)

    def __post_init__(self) -> None:
        """Convert the numbers to int and float, and check them."""
        degree, c = (number.item() if isinstance(number, np.generic) else number for number in (self.degree, self.c))
        check_whole("degree", degree)
        check_number("c", c, 0)
        object.__setattr__(self, "degree", degree)
        object.__setattr__(self, "c", float(c))

    def resolve(self, y: Array) -> Polynomial:
        """Return the kernel itself: no option depends on the data."""
        return self

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return (x_i·y_j + c)^p."""
        return (pairs.dot + self.c) ** self.degree

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return D(x_i, y_j)² by the binomial form of the module."""
        p, g, s = self.degree, pairs.dot + self.c, pairs.squared
        difference = (pairs.x_norm - pairs.y_norm) * (pairs.x_norm + pairs.y_norm)  # a − b
        u, v = (s + difference) / 2, (s - difference) / 2
        total = p * g ** (p - 1) * s
        for q in range(2, p + 1):
            total = total + math.comb(p, q) * g ** (p - q) * (u**q + v**q)
        return total
