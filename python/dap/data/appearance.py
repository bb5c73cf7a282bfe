"""What the images of a source look like, by a few of them: their size, and whether they are in colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dap.errors import FormatError, SourceError

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["CHANNELS", "Appearance", "appearance_of", "in_words"]

CHANNELS: Mapping[str, int] = {"grey": 1, "rgb": 3}
"""The values of the option ``channels``, and the channels that they stand for."""

LOOKED_AT = 16  # images, evenly spaced in the source


@dataclass(frozen=True)
class Appearance:
    """Size and colour of up to 16 images of a source.

    Attributes:
        size: Short side of the first one in pixels.
        channels: 3 if one of them is stored in colour, otherwise 1.
        coloured: Whether one of them has a pixel with a colour. Grey images that are stored as RGB have none.
        uniform: Whether all are squares of the same size.
    """

    size: int
    channels: int
    coloured: bool
    uniform: bool


def appearance_of(source: Source) -> Appearance:
    """Return the appearance of a source, by up to 16 evenly spaced images; those that are damaged do not count.

    Raises:
        SourceError: There is no image.
        FormatError: None of them can be decoded.
    """
    if not len(source):
        raise SourceError(f"{source.name}: there are no images in it")
    images, errors = [], []
    for index in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(np.int64)).tolist():
        try:
            images.append(source.pixels(index))
        except FormatError as error:
            errors.append(error)
    if not images:
        raise errors[0]
    shapes = {image.shape[1:] for image in images}
    return Appearance(
        size=min(images[0].shape[1:]),
        channels=max(len(image) for image in images),
        coloured=any(len(image) == 3 and bool((image != image[:1]).any()) for image in images),
        uniform=shapes == {(images[0].shape[1], images[0].shape[1])},
    )


def in_words(channels: int) -> str:
    """Return the value of the option ``channels`` for a number of channels: "grey" or "rgb"."""
    return "grey" if channels == 1 else "rgb"
