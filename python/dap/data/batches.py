"""A source's images, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dap.errors import FormatError

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["Batches"]


@dataclass(eq=False)
class Batches:
    """What :meth:`Source.batches` returns.

    Attributes:
        skipped: (id, message) of the images that the last iteration left out so far.
    """

    source: Source
    batch_size: int
    size: int
    channels: int
    start: int
    skip: bool
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.skipped = []
        for begin in range(self.start, len(self.source), self.batch_size):
            indices = np.arange(begin, min(begin + self.batch_size, len(self.source)))
            try:
                images = self._images(indices)
            except FormatError:
                if not self.skip:
                    raise
                kept = [index for index in indices if self._decodes(int(index))]
                if not kept:
                    continue
                indices = np.array(kept)
                images = self._images(indices)
            yield images, self.source.labels[indices]

    def _images(self, indices: np.ndarray) -> np.ndarray:
        return self.source.images(indices, size=self.size, channels=self.channels)

    def _decodes(self, index: int) -> bool:
        try:
            self._images(np.array([index]))
        except FormatError as error:
            self.skipped.append((self.source.ids[index], str(error)))
            return False
        return True
