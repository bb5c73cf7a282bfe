"""Batches of a set that is kept on the device: drawn, augmented and converted to float there, seeded by epoch."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dap import rng
from dap.config import check_whole
from dap.device import resolve_device
from dap.errors import OptionError
from dap.nets import Augmentation, get_augmentation
from dap.nets.augmentation import AUGMENTATIONS

__all__ = ["Augment", "Loader"]

Augment = str | Augmentation | Callable[[Tensor, torch.Generator], Tensor]


class Loader:
    """Iterates over augmented batches; made by :meth:`dap.DistilledDataset.loader`.

    The batches of an epoch depend on the seed and the epoch's number alone. Each ``iter()`` starts the epoch with the
    number ``epoch`` and increments it; set ``epoch`` to resume a training or to repeat an epoch.

    Args:
        images: uint8 with shape (N, C, H, W), C = 1 or 3.
        labels: int64 with shape (N,).
        batch_size: Images of a batch, at least 1; the last batch of an epoch may have fewer.
        augment: None or one of the names of :func:`dap.nets.get_augmentation`; a :class:`dap.nets.Augmentation`; or a
            function of uint8 images with shape (B, C, H, W) on the device and a CPU generator for its random numbers,
            which returns images, uint8 or float in [0, 1].
        seed: Root of the order and of all random numbers.
        device: Device of the images and batches; None: the GPU if there is one.
        shuffle: Whether to shuffle the images anew in each epoch.
        drop_last: Whether to leave out a last batch that is not full.
        mean: Mean of each channel, for normalisation (x − mean) / std; None: values stay in [0, 1].
        std: Standard deviation of each channel; given together with ``mean``.

    Attributes:
        epoch: Number of the epoch that the next ``iter()`` starts, from 0.

    Raises:
        OptionError: A value is out of range, or the images do not fit on the device.

    Example:
        >>> images, labels = torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.arange(10)
        >>> loader = Loader(images, labels, batch_size=4, augment="flip", device="cpu")
        >>> [tuple(batch.shape) for batch, _ in loader]
        [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)]
        >>> len(loader), loader.epoch
        (3, 1)
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        augment: Augment | None = None,
        seed: int = 0,
        device: str | torch.device | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        check_whole("batch_size", batch_size)
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
            raise OptionError(f"expected uint8 images (N, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
        if labels.shape != images.shape[:1]:
            raise OptionError(f"expected one label for each of {len(images)} images, got {tuple(labels.shape)}")
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        self.augment = get_augmentation(augment or "none") if augment is None or isinstance(augment, str) else augment
        self.epoch = 0
        self.device = resolve_device(device)
        self._normal = _normal(images.shape[1], mean, std)
        self._buffers = _Buffers()
        try:
            self.images, self.labels = images.to(self.device), labels.to(self.device)
        except torch.OutOfMemoryError as error:
            raise OptionError(
                f"device={str(self.device)!r}: the {len(images)} images take {images.nbytes / 1e9:.1f} GB, more than "
                "is free there; use device='cpu', or a smaller size"
            ) from error

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:]))
        names = [name for name, augmentation in AUGMENTATIONS.items() if augmentation == self.augment]
        augment = names[0] if names else type(self.augment).__name__
        return (
            f"Loader({len(self.images)} images of {size}, {len(self)} batches of {self.batch_size}, augment "
            f"{augment!r}, epoch {self.epoch}, {str(self.device)!r})"
        )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one epoch: images, float32 with shape (B, C, H, W), and labels, int64 with shape (B,)."""
        generator = rng.generator(self.seed, "loader", self.epoch)
        self.epoch += 1
        return self._batches(generator)

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        count, _, height, width = self.images.shape
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        for indices in order.split(self.batch_size)[: len(self)]:
            rows = indices.to(self.device)
            if isinstance(self.augment, Augmentation):
                draws = self.augment.draw(len(rows), height, width, generator)
                images = self._buffers.empty(torch.Size((len(rows), *self.images.shape[1:])), self.device)
                self.augment.apply(self.images, draws, images, rows=indices, normal=self._normal)
            else:
                images = self.augment(self.images.index_select(0, rows), generator)
                images = images.float() if images.is_floating_point() else images / 255
                if self._normal is not None:
                    centre, spread = self._normal.to(self.device)[:, :, None, None].unbind(1)
                    images = (images - centre) / spread
            yield images, self.labels[rows]


class _Buffers:
    """Reuses the CPU memory of batches that are no longer referenced: new memory pages cost more than filling them.

    A tensor made from an array, and each view of it, keeps a reference to that array: once the array is collected, no
    tensor uses the memory. The memory is NumPy's because NumPy requests huge pages and torch does not.
    """

    def __init__(self) -> None:
        self._lent: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_Buffers], tuple[()]]:
        return _Buffers, ()  # another process starts with no memory to reuse

    def empty(self, shape: torch.Size, device: torch.device) -> Tensor:
        """A float32 batch of this shape with arbitrary values."""
        if device.type != "cpu":
            return torch.empty(shape, device=device)
        with self._lock:
            return torch.from_numpy(self._lend(shape.numel())).view(shape)

    def _lend(self, size: int) -> np.ndarray:
        for number, (memory, array) in enumerate(self._lent):
            if array() is None and memory.size >= size:
                lent = memory[:size]
                self._lent[number] = (memory, weakref.ref(lent))
                return lent
        memory = np.empty(size, np.float32)
        lent = memory[:]
        self._lent = [*self._lent[-1:], (memory, weakref.ref(lent))]  # two: a loop holds a batch during the next
        return lent


def _normal(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor | None:
    """Mean and standard deviation of each channel, float32 (channels, 2); None if neither is given."""
    if mean is None and std is None:
        return None
    if mean is None or std is None or len(mean) != channels or len(std) != channels or not min(std) > 0:
        raise OptionError(
            f"mean, std: expected both, {channels} numbers each, std above 0; got mean {mean} and std {std}"
        )
    return torch.tensor([mean, std], dtype=torch.float32).T.contiguous()
