"""The progress bars of a run: those of its preparation, and one that counts denoiser steps of slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from dap.bar import Bars
from dap.priors import Prior
from dap.sampling import StepCallback

__all__ = ["Progress"]


class Progress(Bars):
    """The bars of a run: :meth:`stage` for each part of its preparation, :meth:`making` for its slots.

    Args:
        shown: Whether to show bars.
        callbacks: The user's own callbacks, which are called in turn after the bar of the slots has moved.
    """

    def __init__(self, *, shown: bool, callbacks: Sequence[StepCallback] = ()) -> None:
        super().__init__(shown=shown)
        self._callbacks = callbacks

    @contextmanager
    def making(self, title: str, total: int) -> Iterator[tuple[StepCallback, Callable[[int], None]]]:
        """Yield a callback of the denoising loop that moves a bar over the denoiser steps of all slots.

        Beside it comes a function that moves the bar by steps which another process has made.

        Args:
            title: Text before the bar.
            total: Steps in all; without any there is no bar.
        """
        kept = "the images that are written stay; the same command makes the others"
        with self.stage(title, total=total, unit="step", kept=kept) as bar:

            def on_step(prior: Prior, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
                bar.update(len(tensors["latents"]))  # a unit may be sampled in parts
                for callback in self._callbacks:  # each goes on with the latents of the one before
                    tensors = {**tensors, **callback(prior, step, timestep, tensors)}
                return tensors

            yield on_step, bar.update
