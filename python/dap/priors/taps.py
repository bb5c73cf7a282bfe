"""Reading hidden states of a network at its blocks, ending its gradient there, and putting others in their place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from dap.errors import OptionError

__all__ = ["replaced", "stopped_at", "tapped"]


@contextmanager
def tapped(
    blocks: Mapping[str, nn.Module], numbers: Collection[int], *, cut: bool = False
) -> Iterator[dict[int, Tensor]]:
    """Collects what blocks give while the network runs, as tokens (B, T, D).

    Args:
        blocks: The blocks by name, in the order in which they run.
        numbers: Those to read, counted from 1.
        cut: Keep no graph after the deepest of them, also along connections that lead past it.

    Raises:
        OptionError: There is no such block.
    """
    taken: dict[int, Tensor] = {}
    handles = []
    opened = torch.is_grad_enabled()
    modules = list(blocks.values())
    try:
        for number in numbers:
            if not 1 <= number <= len(modules):
                raise OptionError(f"block: expected 1 to {len(modules)}, got {number}")

            def hook(_module: nn.Module, _inputs: Any, output: Any, number: int = number) -> Any:
                taken[number] = _tokens(output)
                if not cut or number != max(numbers):
                    return None
                torch.set_grad_enabled(False)
                return output.detach() if isinstance(output, Tensor) else None

            handles.append(modules[number - 1].register_forward_hook(hook))
        yield taken
    finally:
        torch.set_grad_enabled(opened)
        for handle in handles:
            handle.remove()


class _Stop(Exception):
    """Ends a forward pass at the tapped block."""


@contextmanager
def stopped_at(blocks: Mapping[str, nn.Module], number: int) -> Iterator[dict[int, Tensor]]:
    """As :func:`tapped` for one block, behind which the network does not run."""

    def stop(*_: Any) -> None:
        raise _Stop

    with tapped(blocks, [number]) as taken:
        handle = list(blocks.values())[number - 1].register_forward_hook(stop)  # after the hook that reads
        try:
            with suppress(_Stop):
                yield taken
        finally:
            handle.remove()


@contextmanager
def replaced(modules: Sequence[nn.Module], outputs: Sequence[Tensor]) -> Iterator[None]:
    """While the network runs, modules give these outputs instead of their own."""
    handles = []
    try:
        for module, output in zip(modules, outputs, strict=True):
            handles.append(module.register_forward_hook(lambda *_, output=output: output))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tokens(output: Any) -> Tensor:
    """Tokens as they are; a map (B, C, h, w), which U-Nets have, by rows. Down blocks give residuals beside it."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden
