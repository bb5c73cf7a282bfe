"""Test images that are also trained on: the same pixels, found by the hashes of small copies."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dap.data.names import some

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["SIDE", "TestHashes"]

SIDE = 32
BATCH = 512

logger = logging.getLogger(__name__)


class TestHashes:
    """The hashes of test images, of all that have one of some classes.

    Args:
        test: The test set.
        classes: Names of the classes that are tested.
        side: Side of the copies in pixels.
        channels: Of the copies.

    Raises:
        FormatError: An image cannot be decoded.
    """

    __test__ = False  # for pytest

    def __init__(self, test: Source, classes: Sequence[str], *, side: int = SIDE, channels: int = 3) -> None:
        self._test, self._shape = test, (channels, side, side)
        labels = [label for label, name in enumerate(test.class_names) if name in classes]
        indices = np.flatnonzero(np.isin(test.labels, labels))
        self._numbers: dict[bytes, list[int]] = {}
        for digest, index in self._hashes(test, indices):
            self._numbers.setdefault(digest, []).append(index)
        self._count = len(indices)

    def warn(
        self, source: Source, indices: Sequence[int] | np.ndarray, where: str, *, copies: np.ndarray | None = None
    ) -> None:
        """Warn in the log, in one line, if some images of a source are also test images.

        Args:
            source: A set that is trained on.
            indices: The numbers of the images that are trained on.
            where: What the set is called in the warning.
            copies: These images in the size of the copies, uint8, if they are at hand; ``indices`` then rises.
        """
        shared: dict[str, str] = {}
        for digest, index in self._hashes(source, np.unique(np.asarray(indices, np.int64)), copies):
            tests = [test for test in self._numbers.get(digest, ()) if self._test.ids[test] not in shared]
            if not tests:
                continue
            pixels = source.pixels(index, channels=3)
            for test in tests:
                if np.array_equal(self._test.pixels(test, channels=3), pixels):
                    shared[self._test.ids[test]] = source.ids[index]
        if shared:
            logger.warning(
                "%s: %d of %d test images are also in %s, pixel by pixel (%s): its accuracy is too high; dap metrics "
                "--against finds near-duplicates too", self._test.name, len(shared), self._count, where,
                some([f"{test_id} = {other}" for test_id, other in shared.items()]),
            )  # fmt: skip

    def _hashes(
        self, source: Source, indices: np.ndarray, copies: np.ndarray | None = None
    ) -> Iterator[tuple[bytes, int]]:
        """Yield a hash of each image's copy, which by default is small and decoded quickly, with its number."""
        channels, side, _ = self._shape
        for start in range(0, len(indices), BATCH):
            part = indices[start : start + BATCH]
            if copies is None:
                images = source.images(part, size=side, channels=channels)
            else:
                images = copies[start : start + BATCH]
            for image, index in zip(images, part.tolist(), strict=True):
                yield hashlib.sha256(image.tobytes()).digest(), index
