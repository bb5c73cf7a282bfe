"""A source from a list of labels, as datasets and shards have it.

A label is an integer or a text. No other value is turned into one: 0.2 and 0.7 are not class 0, "007" is not "7".
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image

from dap.data.image_files import read_image
from dap.data.names import some
from dap.data.source import Source
from dap.errors import SourceError

__all__ = ["check_labels", "join_labels", "same_in_all", "source_from_files", "source_from_labels"]

T = TypeVar("T")
Labels = Sequence[int | str] | np.ndarray


def check_labels(where: object, labels: object) -> np.ndarray:
    """Return labels as int64 or text with shape (N,).

    Args:
        where: The file or dataset, for the message.
        labels: N integers, booleans (0 and 1) or texts, as a list or an array with shape (N,) or (N, 1).

    Raises:
        SourceError: They are of another type or shape, or of several kinds.

    Example:
        >>> check_labels("mine", [[2], [0]])
        array([2, 0])
    """
    array = np.asarray(labels)
    if array.ndim == 1 and array.dtype.kind in "OUT":  # beside a text, numpy turns a number into text
        values = list(labels) if isinstance(labels, Sequence) else array.tolist()
        if len({isinstance(value, str) for value in values}) > 1:
            raise SourceError(f"{where}: expected labels that are all numbers or all text, got {some(values)}")
        array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and not array.size:
        return np.empty(0, np.int64)
    too_large = array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max
    if array.ndim != 1 or array.dtype.kind not in "biuU" or too_large:
        raise SourceError(
            f"{where}: expected one integer or text as label per image, got {array.dtype} with shape {array.shape}: "
            f"{some(array[:1].tolist() if array.ndim else [array.item()])}; convert the labels first, for example "
            "one-hot labels by argmax(1)"
        )
    return array if array.dtype.kind == "U" else array.astype(np.int64)


def join_labels(parts: Sequence[tuple[object, np.ndarray]]) -> np.ndarray:
    """Return the labels of all parts of a set, given with the name of each part.

    Raises:
        SourceError: Some parts have numbers, others text.
    """
    kinds = [(where, "text" if labels.dtype.kind == "U" else "numbers") for where, labels in parts if len(labels)]
    if not kinds:
        return np.empty(0, np.int64)
    same_in_all("kind of labels", kinds)
    return np.concatenate([labels for _, labels in parts if len(labels)])


def same_in_all(what: str, parts: Sequence[tuple[object, T]]) -> T:
    """Return the value that all parts of a set have, given with the name of each part, at least one.

    Raises:
        SourceError: A part has another value than the first.
    """
    (first, expected), *others = parts
    for part, value in others:
        if value != expected:
            raise SourceError(
                f"{part}: expected the {what} of {first}, {_shown(expected)}, got {_shown(value)}; all parts of a set "
                "must agree: open them one by one, or write them again alike"
            )
    return expected


def _shown(value: object) -> str:
    return some(value) if isinstance(value, list) else str(value)


def source_from_labels(
    name: str,
    labels: Labels,
    names: Sequence[str] | None,
    load: Callable[[int], Image.Image],
    *,
    prefix: str = "",
    ids: Sequence[str] | None = None,
    digest: Callable[[], str] | None = None,
    read: Callable[[int], bytes] | None = None,
    skipped: Sequence[tuple[str, str]] = (),
) -> Source:
    """A source from the labels of a dataset; classes without an image are left out.

    Args:
        name: The source's name in the manifest.
        labels: Label of each image, N of them: indices into ``names``, or without names any integers or strings.
        names: Class names by label; None: each label is its own name.
        load: Decodes image number i.
        prefix: Precedes the number in an image's id.
        ids: Id of each image; None: numbers.
        digest: See :class:`Source`.
        read: See :class:`Source`.
        skipped: See :class:`Source`.

    Raises:
        SourceError: There are no images, or a label has no class name.
    """
    if len(labels) == 0:
        raise SourceError(f"{name}: there are no images in it")
    present, numbers = np.unique(check_labels(name, labels), return_inverse=True)
    source_ids: tuple[int | str, ...] = tuple(present.tolist())
    if names is not None:
        strange = [label for label in source_ids if not (isinstance(label, int) and 0 <= label < len(names))]
        if strange:
            raise SourceError(f"{name}: labels {some(strange)} belong to none of the {len(names)} class names")
    return Source(
        name=name,
        class_names=tuple(str(label) if names is None else names[int(label)] for label in source_ids),
        source_ids=source_ids,
        labels=numbers.astype(np.int64),
        ids=[f"{prefix}{index}" for index in range(len(numbers))] if ids is None else ids,
        load=load,
        digest=digest,
        read=read,
        skipped=skipped,
    )


def source_from_files(
    name: str,
    labels: Labels,
    names: Sequence[str] | None,
    read: Callable[[int], bytes],
    *,
    ids: Sequence[str],
    digest: str,
    skipped: Sequence[tuple[str, str]] = (),
) -> Source:
    """A source of encoded image files; arguments as for :func:`source_from_labels`.

    Args:
        name: The source's name in the manifest.
        labels: Label of each image.
        names: Class names by label.
        read: Returns the bytes of file number i, from any thread; a module's function or a ``partial`` of one, which
            can be pickled.
        ids: Id of each image.
        digest: SHA-256 that names the content.
        skipped: See :class:`Source`.
    """
    load = partial(_decode_file, read)
    digest_of = partial(str, digest)
    return source_from_labels(name, labels, names, load, ids=ids, digest=digest_of, read=read, skipped=skipped)


def _decode_file(read: Callable[[int], bytes], index: int) -> Image.Image:
    return read_image(io.BytesIO(read(index)))
