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

__all__ = ["TestHashes"]

SIDE = 32
BATCH = 512

logger = logging.getLogger(__name__)


class TestHashes:
    """The hashes of test images, of all that have one of some classes.

    Args:
        test: The test set.
        classes: Names of the classes that are tested.

    Raises:
        FormatError: An image cannot be decoded.
    """

    __test__ = False  # for pytest

    def __init__(self, test: Source, classes: Sequence[str]) -> None:
        self._test = test
        labels = [label for label, name in enumerate(test.class_names) if name in classes]
        indices = np.flatnonzero(np.isin(test.labels, labels))
        self._numbers: dict[bytes, list[int]] = {}
        for digest, index in _hashes(test, indices):
            self._numbers.setdefault(digest, []).append(index)
        self._count = len(indices)

    def warn(self, source: Source, indices: Sequence[int] | np.ndarray, where: str) -> None:
        """Warn in the log, in one line, if some images of a source are also test images.

        Args:
            source: A set that is trained on.
            indices: The numbers of the images that are trained on.
            where: What the set is called in the warning.
        """
        shared: dict[str, str] = {}
        for digest, index in _hashes(source, np.unique(np.asarray(indices, np.int64))):
            for test in self._numbers.get(digest, ()):
                if np.array_equal(self._test.pixels(test, channels=3), source.pixels(index, channels=3)):
                    shared.setdefault(self._test.ids[test], source.ids[index])
        if shared:
            logger.warning(
                "%s: %d of %d test images are also in %s, pixel by pixel (%s): its accuracy is too high; dap metrics "
                "--against finds near-duplicates too", self._test.name, len(shared), self._count, where,
                some([f"{test_id} = {other}" for test_id, other in shared.items()]),
            )  # fmt: skip


def _hashes(source: Source, indices: np.ndarray) -> Iterator[tuple[bytes, int]]:
    """Yield a hash of each image in a small size, which is decoded quickly, with its number."""
    for start in range(0, len(indices), BATCH):
        part = indices[start : start + BATCH]
        for image, index in zip(source.images(part, size=SIDE, channels=3), part.tolist(), strict=True):
            yield hashlib.sha256(image.tobytes()).digest(), index
