"""Forward hooks that read hidden states at a network's blocks, end its gradient there, or replace its outputs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dap.errors import OptionError

__all__ = ["network_lock", "replaced", "stopped_at", "tapped"]

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()


@contextmanager
def network_lock(network: nn.Module) -> Iterator[None]:
    """Return a context that one thread at a time enters for a network: hooks of one would act in the pass of another.

    Priors that share a network share its lock. Inside, code that ``torch.compile`` made is not used, since it calls
    only hooks that were there when it was made.
    """
    with _guard:
        lock = _locks.setdefault(network, threading.RLock())
    # torch._dynamo takes seconds to import; without it nothing is compiled
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with lock, eager:
        yield


@contextmanager
def tapped(
    blocks: Mapping[str, nn.Module], numbers: Collection[int], *, cut: bool = False
) -> Iterator[dict[int, Tensor]]:
    """Collect the outputs of blocks while the network runs, as tokens (B, T, D) by block number.

    Args:
        blocks: The blocks by name, in the order in which they run.
        numbers: Numbers of the blocks to read, counted from 1.
        cut: Keep no graph after the deepest of them, nor along connections that skip it.

    Raises:
        OptionError: There is no block of that number.
    """
    features: dict[int, Tensor] = {}
    handles = []
    enabled = torch.is_grad_enabled()
    modules = list(blocks.values())
    try:
        for number in numbers:
            if not 1 <= number <= len(modules):
                raise OptionError(f"block: expected 1 to {len(modules)}, got {number}")

            def hook(
                _module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...], number: int = number
            ) -> Tensor | None:
                features[number] = _tokens(output)
                if not cut or number != max(numbers):
                    return None
                torch.set_grad_enabled(False)
                return output.detach() if isinstance(output, Tensor) else None

            handles.append(modules[number - 1].register_forward_hook(hook))
        yield features
    finally:
        torch.set_grad_enabled(enabled)
        for handle in handles:
            handle.remove()


class _Stop(Exception):
    """Ends a forward pass at the tapped block."""


@contextmanager
def stopped_at(blocks: Mapping[str, nn.Module], number: int) -> Iterator[dict[int, Tensor]]:
    """Tap one block, as :func:`tapped` does, and stop the network after it."""

    def stop(*_: object) -> None:
        raise _Stop

    with tapped(blocks, [number]) as features:
        handle = list(blocks.values())[number - 1].register_forward_hook(stop)  # runs after the hook that reads
        try:
            with suppress(_Stop):
                yield features
        finally:
            handle.remove()


@contextmanager
def replaced(modules: Sequence[nn.Module], outputs: Sequence[Tensor]) -> Iterator[None]:
    """Return a context in which modules return these outputs instead of their own."""
    handles = []
    try:
        for module, output in zip(modules, outputs, strict=True):
            handles.append(module.register_forward_hook(lambda *_, output=output: output))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tokens(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return (B, T, D) of tokens, or of a U-Net's map (B, C, h, w).

    Of a tuple the first: down blocks return hidden states and a tuple of them. Blocks of SD3 and FLUX return the tokens
    of the text and those of the image: the second.
    """
    joint = isinstance(output, tuple) and isinstance(output[1], Tensor)
    hidden = output if isinstance(output, Tensor) else output[1 if joint else 0]
    return hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden
