"""The progress bar of a run, which counts denoiser steps of slots."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from torch import Tensor

from dap.bar import progress_bar
from dap.priors import Prior
from dap.sampling import StepCallback

__all__ = ["Progress"]


class Progress:
    """A bar over the denoiser steps of all slots that are made, and the callback that moves it.

    Args:
        title: Text before the bar.
        total: Steps in all; without any there is no bar.
        shown: Whether to show it.
        callback: The user's own callback, which is called after the bar has moved.
    """

    def __init__(self, title: str, total: int, *, shown: bool, callback: StepCallback | None = None) -> None:
        self._bar = progress_bar(title, total=total, unit="step", shown=shown)
        self._callback = callback

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def on_step(self, prior: Prior, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Count a step of each slot in the batch; a :data:`dap.sampling.StepCallback`."""
        self._bar.update(len(tensors["latents"]))  # a unit may be sampled in parts
        return self._callback(prior, step, timestep, tensors) if self._callback else tensors
