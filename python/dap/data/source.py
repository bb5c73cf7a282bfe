"""A source: labelled images, however they are stored.

A class has three identifiers: its *name* ("Dress"), the source's own *id* of it (a folder name, a dataset's label), and
the prior's label, which :mod:`dap.data.classmap` finds. ``labels`` are indices into the classes of this source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from dap.config import check_choice, check_whole
from dap.data.appearance import Appearance, appearance_of
from dap.data.batches import Batches, ImageError, decode_batch
from dap.data.codecs import decode
from dap.data.content import digest_of_pixels, digest_of_selection, naming
from dap.data.names import readable, some
from dap.data.pixels import to_pixels, to_upright
from dap.errors import FormatError, OptionError, SourceError

__all__ = ["Source"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Labelled images, each decoded when it is used. Opened by :func:`dap.open_source`.

    Attributes:
        name: The source's name in the manifest: a built-in name, a folder, a dataset's id or class.
        class_names: Name of each class, all different, in the source's own order.
        source_ids: The source's own id of each class: the folder name or the dataset's label.
        labels: Class of each image, an index into ``class_names``; int64 with shape (N,), read-only.
        ids: Stable name of each image: a path below the folder, or a number. Bytes that are no UTF-8 stand as %E9.
        load: Decodes image number i, in any mode and size.
        digest: Returns a hash of the content with few reads; None: :meth:`identity` reads every image.
        read: Returns the encoded bytes of image number i, from any thread; None: the source has no encoded files.
        skipped: (name, reason) of each file that looks like an image, and of each folder, that is not read.
        license: The images' licence, such as "mit"; None: it is not known.
        digest_of: Returns the hash that some of the images would have as a source of their own, by their numbers; None:
            it is not known.
    """

    name: str
    class_names: tuple[str, ...]
    source_ids: tuple[int | str, ...]
    labels: np.ndarray
    ids: Sequence[str]
    load: Callable[[int], Image.Image]
    digest: Callable[[], str] | None = None
    read: Callable[[int], bytes] | None = None
    skipped: Sequence[tuple[str, str]] = ()
    license: str | None = None
    digest_of: Callable[[np.ndarray], str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", readable(self.name))
        object.__setattr__(self, "ids", [*map(readable, self.ids)])
        object.__setattr__(self, "class_names", tuple(map(readable, self.class_names)))
        if repeated := [name for name, count in Counter(self.class_names).items() if count > 1]:
            raise SourceError(f"{self.name}: more than one class is called {some(repeated)}; names must differ")
        self.labels.setflags(write=False)

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {len(self)} images, {len(self.class_names)} classes)"

    def __len__(self) -> int:
        return len(self.labels)

    def of_class(self, label: int) -> np.ndarray:
        """Indices of the images of a class in the source's order, int64 with shape (n,), read-only."""
        return self._by_class[label]

    @cached_property
    def _by_class(self) -> list[np.ndarray]:
        """The indices of each class, sorted once: to look for each of 1,000 classes takes 1,000 passes."""
        order = np.argsort(self.labels, kind="stable")
        order.setflags(write=False)
        return np.split(order, np.searchsorted(self.labels[order], np.arange(1, len(self.class_names))))

    def images(self, indices: Sequence[int] | np.ndarray, *, size: int, channels: int) -> np.ndarray:
        """Decodes images, and resizes and crops them to one shape as :func:`dap.data.pixels.to_pixels` does.

        Args:
            indices: n image indices, each in [0, N).
            size: Side in pixels, at least 1.
            channels: 1 for grey, 3 for RGB.

        Returns:
            uint8 with shape (n, channels, size, size).

        Raises:
            FormatError: An image cannot be decoded; the message names it.
            OptionError: ``size`` or ``channels`` is out of range.

        Example:
            >>> import dap
            >>> dap.open_source("fashion-mini").images([0, 1], size=32, channels=1).shape
            (2, 1, 32, 32)
        """
        if size < 1 or channels not in (1, 3):
            raise OptionError(f"expected size >= 1 and channels 1 or 3, got size {size} and channels {channels}")
        if self.read is not None:
            try:
                return decode_batch(self.read, indices, size=size, channels=channels)
            except ImageError as error:
                name = f"{self.name}/{self.ids[error.index]}"
                raise FormatError(f"{name}: cannot be read as an image ({error})") from error
        pixels = np.empty((len(indices), channels, size, size), np.uint8)
        for row, index in zip(pixels, indices, strict=True):
            with naming(self, int(index)):
                row[:] = to_pixels(self.load(int(index)), size=size, channels=channels)
        return pixels

    @cached_property
    def appearance(self) -> Appearance:
        """Size and colour of the images, by up to 16 of them (:mod:`dap.data.appearance`)."""
        return appearance_of(self)

    def pixels(self, index: int, *, channels: int | None = None) -> np.ndarray:
        """One image in its own size, upright: uint8 (C, H, W), C = 1 or 3 as ``channels`` says, or as the image has it.

        Raises:
            FormatError: It cannot be decoded; the message names it.
        """
        with naming(self, index):
            upright = to_upright(self.load(index)) if self.read is None else decode(self.read(index))
            if channels not in (None, upright.shape[2]):
                image = Image.fromarray(upright if channels == 1 else upright[:, :, 0])
                upright = to_upright(image, channels=channels)
        return upright.transpose(2, 0, 1).copy()  # writable, and not shared

    def subset(self, classes: Collection[str]) -> Source:
        """The images of some classes; the classes keep the source's order.

        Raises:
            OptionError: A name is unknown, or ``classes`` is empty.
        """
        if not (wanted := {classes} if isinstance(classes, str) else set(classes)):
            raise OptionError("classes= is empty; name at least one class, or leave it out for all")
        for name in sorted(wanted.difference(self.class_names)):
            check_choice("class", name, self.class_names)
        class_labels = self._labels(wanted)
        names = tuple(self.class_names[label] for label in class_labels)
        if names == self.class_names:
            return self
        indices = np.flatnonzero(np.isin(self.labels, class_labels))
        return replace(
            self.select(indices),
            class_names=names,
            source_ids=tuple(self.source_ids[label] for label in class_labels),
            labels=np.searchsorted(class_labels, self.labels[indices]).astype(np.int64),
            digest=partial(digest_of_selection, self, list(names)),
        )

    def _labels(self, classes: Collection[str]) -> list[int]:
        return [label for label, name in enumerate(self.class_names) if name in classes]

    def shard(self, index: int, count: int) -> Source:
        """Part ``index`` (from 0 to ``count`` - 1) of ``count``: every ``count``-th image, from number ``index`` on.

        The lengths differ by at most one image. Classes and labels stay the same: a class may have no image in a part.

        Example:
            >>> import dap
            >>> dap.open_source("fashion-mini", split="test").shard(0, 3).ids[:3]
            ['test/0', 'test/3', 'test/6']
        """
        check_whole("shard: count", count)
        check_whole("shard: index", index, 0, count - 1)
        return self.select(np.arange(index, len(self), count))

    def select(self, indices: Sequence[int] | np.ndarray) -> Source:
        """The images with these indices, each in [0, N), in this order; all classes stay, even without images."""
        numbers = np.asarray(indices, np.int64).tolist()
        return replace(
            self,
            labels=self.labels[numbers],
            ids=[self.ids[number] for number in numbers],
            load=partial(_call_at, self.load, numbers),
            digest=partial(digest_of_selection, self, numbers),
            digest_of=None,
            read=None if self.read is None else partial(_call_at, self.read, numbers),
        )

    def batches(
        self,
        batch_size: int,
        *,
        size: int,
        channels: int,
        start: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Batches:
        """All images in order, as batches (images, labels), which can be iterated over repeatedly.

        Args:
            batch_size: Images decoded together, at least 1.
            size: Side in pixels, at least 1.
            channels: 1 for grey, 3 for RGB.
            start: Number of the first image, from 0 to N.
            on_error: "skip" leaves out images that cannot be decoded, and lists them in ``skipped`` of the result.

        Returns:
            An iterable of uint8 images (n, channels, size, size) and int64 labels (n,). Iterating raises a FormatError
            at the first image that cannot be decoded, unless those are skipped.

        Example:
            >>> import dap
            >>> images, labels = next(iter(dap.open_source("fashion-mini").batches(64, size=32, channels=1)))
            >>> images.shape, labels.shape
            ((64, 1, 32, 32), (64,))
        """
        return Batches(self, batch_size, size, channels, start, on_error)

    def identity(self) -> str:
        """SHA-256 (hexadecimal) of the content, by which a run recognises that it is continued with the same images.

        Folders: the sorted relative paths and file sizes; a change that keeps a file's size is not noticed. Hugging
        Face datasets: the fingerprint. Others: class names, labels and the pixels of every image, which takes one pass
        over the source. Computed once, at the first call.
        """
        return self._identity

    def identities_of(self, classes: Collection[str]) -> list[str]:
        """Identities that some classes may have had: as a part of this source, or before others were added to it."""
        identities = [self.subset(classes).identity()]
        if self.digest_of is not None:
            identities.append(self.digest_of(np.flatnonzero(np.isin(self.labels, self._labels(classes)))))
        return identities

    @cached_property
    def _identity(self) -> str:
        if self.digest is not None:
            return self.digest()
        return digest_of_pixels(self)


def _call_at(call: Callable[[int], T], numbers: Sequence[int], index: int) -> T:
    return call(numbers[index])
