"""Increments: the first images of each class, those after them, and so on, which are made before a run begins.

A method trains on them, so that the images of later increments depend on those before. Each increment is whole: it has
as many images of every class, also of one that has fewer in the run. So it does not depend on the numbers of images,
and a run that grows finds the same increments. They lie in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from torch import Tensor

from dap.features.index_options import computed_by
from dap.methods.context import Slot, Unit
from dap.stopping import check_stop
from dap.storage.cache import MODES, CacheEntry
from dap.storage.shared_tensors import make_tensors

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = ["Increments"]

RULE = 2  # raise it with every change of the computed bits, so that entries of older versions are not read


class Increments(NamedTuple):
    """The increments of a run.

    Attributes:
        context: The run.
        size: Images of a class in an increment.
    """

    context: Context
    size: int

    @property
    def before_last(self) -> int:
        """The number of increments before that of the last image."""
        return (self.context.ipc - 1) // self.size

    @property
    def images(self) -> int:
        """The number of images in an increment."""
        return self.size * len(self.context.classes)

    @property
    def bytes(self) -> int:
        """The bytes of an increment in the cache."""
        return 4 * self.images * math.prod(self.context.prior.latent_shape)

    def content(self, stage: int, method: object) -> list[object]:
        """Return all that the images of an increment, and of those before it, depend on.

        Args:
            stage: The number of the increment, from 0.
            method: What of that the method knows, JSON-able: its options, and networks that are not the run's own.
        """
        context, prior = self.context, self.context.prior
        return [
            RULE, stage, self.size, method, context.source.identity(),
            [[entry.name, entry.label] for entry in context.classes], prior.describe(), context.settings.to_json(),
            context.seed, context.batch_size, context.pass_size, *computed_by(prior),
        ]  # fmt: skip

    def make(self, stage: int, method: object, sample: Callable[[Unit], Tensor]) -> tuple[Tensor, ...]:
        """Make an increment of all classes, or find it in the cache. It is continued after its last block of slots.

        Args:
            stage: The number of the increment, from 0.
            method: As for :meth:`content`.
            sample: Returns the latents of some slots, (n, C, h, w).

        Returns:
            The latents of each class, float32 (size, C, h, w) on the CPU.

        Raises:
            OptionError: The cache cannot be written, or its disk is too small.
            StoppedError: The run is to end.
        """
        shape, first = self.context.prior.latent_shape, stage * self.size
        classes, numbers = range(len(self.context.classes)), range(first, first + self.size)
        slots = [Slot(index, number) for index in classes for number in numbers]
        most = self.context.batch_size or len(slots)
        blocks = [tuple(slots[begin : begin + most]) for begin in range(0, len(slots), most)]
        entry = CacheEntry.of(MODES, ["increment", *self.content(stage, method)], ".safetensors")

        def latents_of(number: int) -> npt.NDArray[np.float32]:
            values: npt.NDArray[np.float32] = sample(Unit(number, blocks[number])).float().cpu().numpy().ravel()
            return values

        if not entry.is_whole():
            entry.check_space(self.bytes, f"increment {stage + 1} takes", "choose fewer classes")
            rows = [len(block) * math.prod(shape) for block in blocks]
            kept = "the images that are finished are kept; the same command continues after them"
            with closing(make_tensors(entry, {"latents": (len(slots), *shape)}, rows, latents_of)) as written:
                done = next(written, None)
                if done is not None:
                    title, total = f"increment {stage + 1} of {self.before_last + 1}", len(slots)
                    done = min(total, done * most)
                    with self.context.bars.stage(
                        title, total=total, done=done, unit="image", kept=kept, made=True
                    ) as bar:
                        for count in written:
                            bar.update(min(total, count * most) - bar.n)
                            check_stop(entry.path)
        with safe_open(entry.path, framework="pt") as file:
            return tuple(file.get_tensor("latents").split(self.size))
