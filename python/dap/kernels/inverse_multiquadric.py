"""The inverse multiquadric kernel: k(x, y) = (c² + ‖x − y‖²)^−½.

With s = ‖x − y‖² and r = √(c² + s): D² = 2/c − 2/r = 2s / (c r (r + c)), which does not cancel for near points.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dap.kernels.arrays import Array
from dap.kernels.base import KERNELS, Kernel, positive
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["InverseMultiquadric"]


@KERNELS.register("inverse_multiquadric")
@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    """k(x, y) = (c² + ‖x − y‖²)^−½.

    Args:
        c: A positive finite number in the units of the features; k(x, x) = 1/c.

    Raises:
        OptionError: c is not a positive finite number.

    Example:
        >>> import numpy as np
        >>> from dap.kernels import row_sums
        >>> row_sums(np.array([[0.0]]), np.array([[3.0]]), InverseMultiquadric(c=4.0))
        array([0.2])
    """

    c: float = 1.0
    name: str = field(default="inverse_multiquadric", init=False)

    def __post_init__(self) -> None:
        """Convert c to float, and check it."""
        object.__setattr__(self, "c", positive("c", self.c))

    def resolve(self, y: Array) -> InverseMultiquadric:
        """Return the kernel itself: no option depends on the data."""
        return self

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return (c² + ‖x_i − y_j‖²)^−½."""
        return 1.0 / pairs.xp.sqrt(self.c**2 + pairs.squared)

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return 2s / (c r (r + c)), as the module derives it."""
        r = pairs.xp.sqrt(self.c**2 + pairs.squared)
        return 2.0 * pairs.squared / (self.c * r * (r + self.c))
