"""A source from a list of labels, as datasets and shards have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from dap.data.names import some
from dap.data.source import Source
from dap.errors import SourceError

__all__ = ["source_from_labels"]


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
        name: What the manifest calls it.
        labels: Label of each image, N of them: indices into ``names``, or without names any integers or strings.
        names: Class names by label; None: each label is its own name.
        load: Decodes image number i.
        prefix: What goes before the number in an image's id.
        ids: Id of each image; None: numbers.
        digest: See :class:`Source`.
        read: See :class:`Source`.

    Raises:
        SourceError: No images, or a label that no class name belongs to.
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
