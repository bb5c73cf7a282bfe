"""Between packing and the formats: a sample, how a format gets it, and the shard that takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

__all__ = ["Record", "Sample", "Shard"]


@dataclass(frozen=True)
class Sample:
    """One labelled image on its way into a packed set.

    Attributes:
        key: Its path below the set, without an extension; no two are alike, and its last part has no dot.
        label: A position in the class names.
        load: Gives the bytes of an image file, or uint8 pixels with shape (C, H, W), C = 1 or 3. Called from threads.
    """

    key: str
    label: int
    load: Callable[[], bytes | np.ndarray]


@dataclass(frozen=True)
class Record:
    """A sample as a shard takes it.

    Attributes:
        key: As the sample's.
        label: As the sample's.
        data: The bytes of an image file.
        extension: What its format is called: "png", "jpg" or "webp".
        pixels: uint8 with shape (C, H, W).
    """

    key: str
    label: int
    data: bytes
    extension: str
    pixels: np.ndarray


class Shard(Protocol):
    """One shard that is being written, and appears whole when it is finished."""

    def __init__(self, folder: Path, name: str, class_names: Sequence[str]) -> None:
        """Begins the shard ``name`` (without an extension) in a folder that exists."""

    def add(self, record: Record) -> None:
        """Takes one more record."""

    def finish(self) -> Mapping[str, str]:
        """Makes the shard durable; returns the SHA-256 of each file by its path below the folder."""

    def discard(self) -> None:
        """Throws away what is not finished."""
