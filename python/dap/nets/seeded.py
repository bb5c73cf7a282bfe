"""Random numbers of other libraries' code from a generator of ours, without torch's global random state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["SeededMode"]


class SeededMode(TorchDispatchMode):
    """In this context every random operation of torch draws from ``generator``: of this thread, on its device.

    Attributes:
        drew: Whether there was such an operation.

    Example:
        >>> with SeededMode(torch.Generator().manual_seed(0)):
        ...     first = torch.nn.Linear(2, 2).weight
        >>> with SeededMode(torch.Generator().manual_seed(0)):
        ...     torch.equal(torch.nn.Linear(2, 2).weight, first)
        True
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator
        self.drew = False

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Call an operation; if it is random, with the generator."""
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.drew = True
            if not any(argument.name == "generator" for argument in func._schema.arguments):
                func = func.overloadpacket.generator  # such as randn, whose other form takes the generator
            kwargs["generator"] = self._generator
        return func(*args, **kwargs)
