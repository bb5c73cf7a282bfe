"""The pipeline's own evaluation of its network: what went in and came out, and the same again with a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dap.priors.networks import uncompiled

__all__ = ["NetworkCall", "guidance_scale", "recorded"]

NO_LABEL = 1000  # of diffusers' DiTPipeline, whatever its network


@dataclass(frozen=True)
class NetworkCall:
    """One evaluation of the network, of N images; with classifier-free guidance of 2 N rows.

    Attributes:
        args: Positional arguments, of which the first is the input.
        kwargs: The others.
        output: Its output, (N or 2 N, channels, h, w).
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor

    @property
    def labels(self) -> Tensor | None:
        """The label of each image, int64 (N,), that a DiT was given; None for a network under text."""
        labels: Tensor | None = self.kwargs.get("class_labels")
        return None if labels is None else labels[self._labelled(labels)]

    def parts(self, count: int) -> tuple[slice, slice | None]:
        """Return the rows with a label or prompt, and those without: a DiT has them behind, Stable Diffusion before."""
        if len(self.output) == count:
            return slice(count), None
        first, second = slice(count), slice(count, None)
        return (first, second) if "class_labels" in self.kwargs else (second, first)

    def run(self, network: nn.Module, sample: Tensor, rows: slice, channels: int) -> Tensor:
        """Evaluate the network again on some rows with another input; return float32 (N, channels, h, w)."""
        total = len(self.output)
        args = [_rows(value, total, rows) for value in self.args[1:]]
        kwargs = {name: _rows(value, total, rows) for name, value in self.kwargs.items()}
        return _output(uncompiled(network)(sample.to(self.output.dtype), *args, **kwargs))[:, :channels].float()

    @staticmethod
    def _labelled(labels: Tensor) -> slice:
        half = len(labels) // 2
        doubled = len(labels) == 2 * half > 0 and bool((labels[half:] == NO_LABEL).all())
        return slice(half if doubled else len(labels))


@contextmanager
def recorded(network: nn.Module, record: Callable[[NetworkCall], None]) -> Iterator[None]:
    """Return a context in which each evaluation of the network is recorded."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        record(NetworkCall(args, dict(kwargs), _output(output)))

    handle = network.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _output(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, tuple) else output.sample
    return tensor


def _rows(value: Any, total: int, rows: slice) -> Any:
    """Return some rows of a tensor that has one for each row of the input, also inside dicts and lists."""
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and len(value) == total else value
    if isinstance(value, dict):
        return {name: _rows(part, total, rows) for name, part in value.items()}
    return type(value)(_rows(part, total, rows) for part in value) if isinstance(value, list | tuple) else value


def guidance_scale(conditional: Tensor, null: Tensor, guided: Tensor) -> float:
    """Return s of ``guided`` = null + s (conditional − null): not every pipeline keeps it."""
    difference = (conditional - null).double()
    square = difference.square().sum()
    return float(((guided - null).double() * difference).sum() / square) if square > 0 else 1.0
