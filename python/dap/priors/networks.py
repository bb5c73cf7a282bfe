"""Readers of a pipeline's networks: behind wrappers, and with configurations that lack some entries."""

from __future__ import annotations

from typing import Any

from dap.errors import OptionError

__all__ = ["square_side", "uncompiled"]


def uncompiled(module: Any) -> Any:
    """Return the module that ``torch.compile`` wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)  # torch's name


def square_side(name: str, size: Any) -> int:
    """Return the side of a network's input from the ``sample_size`` of its configuration: n, or [n, n].

    Raises:
        OptionError: It is missing, or not that of a square.
    """
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides) or sides[0] != sides[1]:
        raise OptionError(
            f"{name}: expected the sample_size of a square in the network's configuration, such as 64, got {size}; "
            "set it to the side of a latent"
        )
    return int(sides[0])
