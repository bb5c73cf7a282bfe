"""Images that two sets share: the same pixels, or nearly the same picture.

Each image is reduced to 16 x 16 grey pixels; its nearest image of the other set is a near-duplicate if the root mean
square of their difference is at most ``tolerance``. Another encoding, size or colour of a picture changes this form by
less than 0.01 of the range. Crops and mirrored pictures are not found. Pictures without structure, such as blank ones,
are near-duplicates of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dap.config import check_number
from dap.kernels import nearest

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["Overlap", "overlap"]

SIDE = 16
_BATCH = 1024
_SHOWN = 3


@dataclass(frozen=True)
class Overlap:
    """Images of a set that are also in another one.

    Attributes:
        first: Name of the set.
        second: Name of the other set.
        images: Number of images of the first set.
        same: (id in the first set, id in the second) of images with the same pixels.
        near: The same of near-duplicates, the most similar first.
        differences: Root mean square difference of each near-duplicate, in [0, tolerance] of the range of values.
    """

    first: str
    second: str
    images: int
    same: tuple[tuple[str, str], ...]
    near: tuple[tuple[str, str], ...]
    differences: tuple[float, ...]

    def __bool__(self) -> bool:
        """Return whether an image was found."""
        return bool(self.same or self.near)

    def __str__(self) -> str:
        """Return one line."""
        if not self:
            return f"overlap: none of the {self.images} images of {self.first} is in {self.second}"
        pairs = (*self.same, *self.near)
        text = ", ".join(f"{own} = {other}" for own, other in pairs[:_SHOWN])
        more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
        return (
            f"overlap: of the {self.images} images of {self.first}, {len(self.same)} are in {self.second} pixel by "
            f"pixel and {len(self.near)} nearly so: {text}{more}"
        )

    def to_dict(self) -> dict[str, object]:
        """Return the fields in JSON's types."""
        return {
            "first": self.first, "second": self.second, "images": self.images,
            "same": [list(pair) for pair in self.same],
            "near": [[*pair, value] for pair, value in zip(self.near, self.differences, strict=True)],
        }  # fmt: skip


def overlap(first: Source, second: Source, *, tolerance: float = 0.02) -> Overlap:
    """Return the images of a set that are also in another one, pixel by pixel or nearly.

    Args:
        first: The set that is searched for, for example ``open_source("distilled")``, or a test set.
        second: The set in which it is searched, for example the training images.
        tolerance: Largest root mean square difference of a near-duplicate, from 0 to 1.

    Raises:
        OptionError: ``tolerance`` is out of range.
        FormatError: An image cannot be decoded.

    Example:
        >>> import dap
        >>> train = dap.open_source("fashion-mini", classes=["Bag"])
        >>> found = overlap(train.select([5]), train)
        >>> len(found.same), found.same[0][0] == found.same[0][1]
        (1, True)
    """
    check_number("tolerance", tolerance, 0, 1)
    distances, indices = nearest(_reduced(first), _reduced(second), 1)
    differences = distances[:, 0] / SIDE
    same: list[tuple[tuple[str, str], float]] = []
    near: list[tuple[tuple[str, str], float]] = []
    for number in np.argsort(differences, kind="stable").tolist():
        if differences[number] > tolerance:
            break
        other = int(indices[number, 0])
        pair = (first.ids[number], second.ids[other])
        equal = np.array_equal(first.pixels(number, channels=3), second.pixels(other, channels=3))
        (same if equal else near).append((pair, float(differences[number])))
    return Overlap(
        first.name, second.name, len(first), tuple(pair for pair, _ in same), tuple(pair for pair, _ in near),
        tuple(value for _, value in near),
    )  # fmt: skip


def _reduced(source: Source) -> npt.NDArray[np.float16]:
    """Return 16 x 16 grey pixels of each image from 0 to 1, in half precision: 512 bytes an image."""
    rows = np.empty((len(source), SIDE * SIDE), np.float16)
    for start in range(0, len(source), _BATCH):
        numbers = np.arange(start, min(start + _BATCH, len(source)))
        rows[numbers] = source.images(numbers, size=SIDE, channels=1).reshape(len(numbers), -1) / np.float32(255)
    return rows
