"""The content of a source: hashes of it, and errors of its images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dap.errors import FormatError

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["digest_of_pixels", "digest_of_selection", "naming"]


@contextmanager
def naming(source: Source, index: int) -> Iterator[None]:
    """Turn every error of an image, except that of too little memory, into a FormatError that names the image.

    Args:
        source: The images.
        index: Number of the image, in [0, N).
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # decoders raise almost anything when a file is damaged or hostile
        name = f"{source.name}/{source.ids[index]}"
        raise FormatError(f"{name}: cannot be read as an image ({type(error).__name__}: {error})") from error


def digest_of_pixels(source: Source) -> str:
    """Return the SHA-256 (hexadecimal) of class names, labels and all pixels; every image is decoded once.

    Raises:
        FormatError: An image cannot be decoded; the message names it.
    """
    content = hashlib.sha256(json.dumps(source.class_names).encode())
    content.update(source.labels.astype("<i8").tobytes())
    for index in range(len(source)):
        with naming(source, index):
            image = source.load(index)
            content.update(f"{image.mode} {image.size}".encode() + image.tobytes())
    return content.hexdigest()


def digest_of_selection(parent: Source, selection: Sequence[int] | Sequence[str]) -> str:
    """Return the SHA-256 (hexadecimal) of a part of a source.

    Args:
        parent: The source.
        selection: Numbers of its images, or names of its classes.
    """
    return hashlib.sha256(json.dumps([parent.identity(), selection]).encode()).hexdigest()
