"""A source from a list of labels, as datasets and shards have it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image

from dap.data.image_files import read_image
from dap.data.names import some
from dap.data.source import Source
from dap.errors import SourceError

__all__ = ["source_from_files", "source_from_labels"]


def source_from_labels(
    name: str,
    labels: Sequence[int | str] | np.ndarray,
    names: Sequence[str] | None,
    load: Callable[[int], Image.Image],
    *,
    prefix: str = "",
    ids: Sequence[str] | None = None,
    digest: Callable[[], str] | None = None,
    read: Callable[[int], bytes] | None = None,
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

    Raises:
        SourceError: There are no images, or a label has no class name.
    """
    if len(labels) == 0:
        raise SourceError(f"{name}: there are no images in it")
    present, numbers = np.unique(np.asarray(labels), return_inverse=True)
    if present.dtype.kind not in "iuU" or numbers.ndim != 1:
        raise SourceError(f"{name}: expected one integer or string label per image, got {present.dtype} {present[:5]}")
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
    )


def source_from_files(
    name: str,
    labels: Sequence[int | str] | np.ndarray,
    names: Sequence[str] | None,
    read: Callable[[int], bytes],
    *,
    ids: Sequence[str],
    digest: str,
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
    """
    load = partial(_decode_file, read)
    return source_from_labels(name, labels, names, load, ids=ids, digest=partial(str, digest), read=read)


def _decode_file(read: Callable[[int], bytes], index: int) -> Image.Image:
    return read_image(io.BytesIO(read(index)))
