"""The base class of encoders, which turn real images into rows of features, and ``Encoder(name)``.

Methods that choose real images, :mod:`dap.selection` and :mod:`dap.metrics` compare these rows. An encoder needs no
class label, except for the prior's own features (:class:`dap.features.encoders.PriorEncoder`).
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dap.errors import OptionError
from dap.seams import Seam
from dap.storage.cache import FEATURES, CacheEntry
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["Encoder", "EncoderType"]

RULE = 1  # raise it with every change of the computed bits, so that entries of older versions are not read


class EncoderType(ABCMeta):
    """Lets ``Encoder("pixels")`` make the encoder of that name.

    Attributes:
        by_name: :func:`dap.features.encoders.encoder_by_name`, which that module puts here.
    """

    by_name: ClassVar[Callable[..., Any]]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return the encoder of a name, or one of the subclass that is called."""
        return EncoderType.by_name(*args, **kwargs) if cls is Encoder else super().__call__(*args, **kwargs)


class Encoder(Seam, metaclass=EncoderType):
    """Turns real images into rows of features.

    ``Encoder(name)`` makes one by name: "pixels", "vae" and "prior" (both with ``prior=``), or any model of timm, such
    as ``Encoder("vit_small_patch14_dinov2.lvd142m")``; see :func:`dap.features.encoders.encoder_by_name`. A subclass
    sets ``name``, says what its numbers depend on, and encodes a batch of images.

    Attributes:
        name: The name in the manifest.
        batch_size: Images that are encoded together. It is fixed, because a network rounds differently at another size.

    Example:
        >>> import dap
        >>> source = dap.open_source("fashion-mini", classes=["Dress"])
        >>> Encoder("pixels", size=8).rows(source, range(5)).shape
        (5, 192)
    """

    seam: ClassVar[str] = "encoder"
    parts: ClassVar[tuple[str, ...]] = ("name",)

    name: ClassVar[str]
    batch_size: ClassVar[int] = 256

    @abstractmethod
    def describe(self) -> Mapping[str, object]:
        """Return what the features depend on, JSON-able: the name, all options, a hash of the weights."""

    @abstractmethod
    def encode(self, source: Source, indices: Sequence[int], *, label: int = 0) -> Tensor:
        """Return the features of some images, float32 (n, D) on the CPU.

        Args:
            source: The images.
            indices: n of them, at most ``batch_size``.
            label: The prior's label of their class, for features that depend on it.
        """

    def computed_by(self) -> list[str]:
        """Return versions and device, on which the last bits of the features depend; none by default."""
        return []

    @own_torch_state()
    def rows(
        self,
        source: Source,
        indices: Sequence[int] | npt.NDArray[np.int64] | None = None,
        *,
        label: int = 0,
        cached: bool = True,
        on_batch: Callable[[int], object] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the features of images of a source, for :mod:`dap.selection` and :mod:`dap.metrics`.

        Args:
            source: The images.
            indices: Which ones; None: all.
            label: The prior's label of their class, for features that depend on it.
            cached: Keep the rows in the cache (``$DAP_CACHE``), and read them from there the next time.
            on_batch: Called with the number of images of each batch that is ready.

        Returns:
            float32 (n, D), in the order of the indices.

        Raises:
            OptionError: The cache cannot be written, or the features are not finite rows.
            FormatError: An image cannot be decoded.
        """
        numbers = list(range(len(source))) if indices is None else [int(index) for index in indices]
        if not cached:
            return self._compute(source, numbers, label, on_batch).numpy()
        entry = self.entry(source, numbers, label=label)
        if entry.is_whole():
            with suppress(OSError, SafetensorError, KeyError):  # somebody has just deleted it: it is made again
                rows = load(entry.path.read_bytes())["features"].numpy()
                if on_batch is not None:
                    on_batch(len(rows))
                return rows
        features = self._compute(source, numbers, label, on_batch)
        entry.write(save({"features": features}))
        return features.numpy()

    def entry(self, source: Source, indices: Sequence[int] | npt.NDArray[np.int64], *, label: int = 0) -> CacheEntry:
        """Return the entry of the cache for :meth:`rows` of some images, whether it is there or not."""
        ids = [source.ids[int(index)] for index in indices]
        content = [RULE, dict(self.describe()), self.computed_by(), source.identity(), label, ids]
        return CacheEntry.of(FEATURES, content, ".safetensors")

    def _compute(
        self, source: Source, numbers: list[int], label: int, on_batch: Callable[[int], object] | None
    ) -> Tensor:
        """Encode the images batch by batch."""
        batches = []
        for start in range(0, len(numbers), self.batch_size):
            batch = numbers[start : start + self.batch_size]
            batches.append(self._checked(self.encode(source, batch, label=label), len(batch)))
            if on_batch is not None:
                on_batch(len(batch))
        if not batches:
            raise OptionError(f"encoder {self.name}: expected images to encode, got none")
        return torch.cat(batches).contiguous()

    def _checked(self, features: Tensor, count: int) -> Tensor:
        if features.dtype != torch.float32 or features.ndim != 2 or len(features) != count:
            raise OptionError(
                f"encoder {self.name}: expected float32 features of shape ({count}, D), got {features.dtype} "
                f"{tuple(features.shape)}"
            )
        if not torch.isfinite(features).all():
            raise OptionError(f"encoder {self.name}: gives features that are not finite; choose another one")
        return features
