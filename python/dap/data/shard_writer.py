"""The seam between packing and the file formats: samples, records, and the base class of all shard writers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

__all__ = ["Record", "Sample", "ShardWriter"]


@dataclass(frozen=True)
class Sample:
    """One labelled image that is to be packed.

    Attributes:
        key: Its path below the packed set, without an extension; unique, and without a dot in its last part.
        label: An index into the class names.
        load: Returns the bytes of an image file, or uint8 pixels with shape (C, H, W), C = 1 or 3. Called from threads.
        name: Where it comes from, such as a path, for errors; without one they have the key.
    """

    key: str
    label: int
    load: Callable[[], bytes | np.ndarray]
    name: str = ""


@dataclass(frozen=True)
class Record:
    """A sample after decoding and encoding, ready to be written.

    Attributes:
        key: The sample's key.
        label: The sample's label.
        data: The bytes of an image file.
        extension: The extension of that file: "png", "jpg" or "webp".
        pixels: uint8 with shape (C, H, W).
    """

    key: str
    label: int
    data: bytes
    extension: str
    pixels: np.ndarray


class ShardWriter(ABC):
    """Writes one shard, which appears under its name when :meth:`finish` is called, complete or not at all.

    Args:
        folder: An existing folder.
        name: The shard's name without an extension, such as "train-000000".
        class_names: Names by label.

    Attributes:
        package: The package whose version decides the bytes of the shard; None: dap alone does.
        max_images: Most images of one shard; None: as many as the caller wants.
    """

    package: ClassVar[str | None] = None
    max_images: ClassVar[int | None] = None

    def __init__(self, folder: Path, name: str, class_names: Sequence[str]) -> None:
        self.folder, self.name, self.class_names = folder, name, tuple(class_names)

    @staticmethod
    def size(record: Record) -> int:
        """Bytes that a record takes in the shard."""
        return len(record.data)

    @abstractmethod
    def add(self, record: Record) -> None:
        """Adds one record."""

    @abstractmethod
    def finish(self) -> Mapping[str, str]:
        """Makes the shard durable; returns the SHA-256 of each file by its path below the folder."""

    @abstractmethod
    def discard(self) -> None:
        """Deletes what is not finished."""
