"""Encoders by name: small pixels, the latents of a prior's VAE, the prior's own features, and models of timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from dap.config import check_whole, from_options
from dap.data.classmap import build_class_map
from dap.errors import ClassMapError, OptionError
from dap.features.encoder import Encoder, EncoderType
from dap.features.index_options import computed_by, prior_hash
from dap.features.pooling import Tap, block_number
from dap.features.references import encode_images, real_features
from dap.priors import Prior, load_prior

if TYPE_CHECKING:
    from dap.data.source import Source
    from dap.priors import PriorLike

__all__ = ["NAMES", "PixelEncoder", "PriorEncoder", "VAEEncoder", "encoder_by_name", "with_labels"]

NAMES = ("pixels", "vae", "prior")
"""The names of encoders that are no models of timm."""


@dataclass(frozen=True)
class PixelEncoder(Encoder):
    """The images in RGB, cropped to squares and reduced; values from 0 to 1.

    Attributes:
        size: Side of the squares in pixels; a row has 3 · size² numbers.
    """

    name: ClassVar[str] = "pixels"

    size: int = 32

    def __post_init__(self) -> None:
        check_whole("size", self.size)

    def describe(self) -> Mapping[str, object]:
        """Return name and size."""
        return {"name": self.name, "size": self.size}

    def encode(self, source: Source, indices: Sequence[int], *, label: int = 0) -> Tensor:
        """Return the pixels; see :meth:`Encoder.encode`."""
        return torch.from_numpy(source.images(indices, size=self.size, channels=3)).flatten(1).float() / 255


@dataclass(frozen=True)
class _OfPrior(Encoder):
    """The base of encoders that use networks of a prior."""

    prior: Prior

    @cached_property
    def _hash(self) -> str:
        return prior_hash(self.prior)  # reads all weights

    def computed_by(self) -> list[str]:
        """Return versions, device and dtype."""
        return computed_by(self.prior)

    def _images(self, source: Source, indices: Sequence[int]) -> Tensor:
        channels, size, _ = self.prior.image_shape
        return torch.from_numpy(source.images(indices, size=size, channels=channels))


@dataclass(frozen=True)
class VAEEncoder(_OfPrior):
    """The latents of a prior's VAE, as one row for each image; the denoiser is not used, and no class has to be known.

    Attributes:
        prior: The prior.
    """

    name: ClassVar[str] = "vae"

    def describe(self) -> Mapping[str, object]:
        """Return the name and the prior."""
        return {"name": self.name, "prior": {"name": self.prior.name, "sha256": self._hash}}

    def encode(self, source: Source, indices: Sequence[int], *, label: int = 0) -> Tensor:
        """Return the latents; see :meth:`Encoder.encode`."""
        return encode_images(self.prior, self._images(source, indices)).flatten(1)


@dataclass(frozen=True)
class PriorEncoder(_OfPrior):
    """The prior's hidden state at a block, averaged over tokens, of images that are noised to a timestep.

    ``label`` of :meth:`Encoder.rows` is the prior's label of the images' class.

    Attributes:
        prior: The prior.
        block: Number or name of the denoiser's block; None takes the prior's recommendation.
        timestep: The timestep, from 0 to 999.
        seed: Root seed of the noise.
    """

    name: ClassVar[str] = "prior"

    block: int | str | None = None
    timestep: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("timestep", self.timestep, 0, 999)
        block_number(self.prior, self.block)

    def describe(self) -> Mapping[str, object]:
        """Return the name, the prior and all options."""
        return {
            "name": self.name, "prior": {"name": self.prior.name, "sha256": self._hash},
            "block": block_number(self.prior, self.block), "timestep": self.timestep, "seed": self.seed,
        }  # fmt: skip

    def encode(self, source: Source, indices: Sequence[int], *, label: int = 0) -> Tensor:
        """Return the features under a label; see :meth:`Encoder.encode`."""
        return real_features(
            self.prior, self._images(source, indices), [source.ids[index] for index in indices], label=label,
            tap=Tap(block_number(self.prior, self.block)), timestep=self.timestep, seed=self.seed,
        )  # fmt: skip


def encoder_by_name(
    name: str,
    /,
    *,
    prior: PriorLike | None = None,
    device: str | torch.device | None = None,
    **options: object,
) -> Encoder:
    """Return an encoder; ``Encoder(name, …)`` calls this.

    Args:
        name: "pixels" (:class:`PixelEncoder`), "vae" (:class:`VAEEncoder`), "prior" (:class:`PriorEncoder`), or the
            name of a model that timm knows, "resnet18" or "timm/resnet18"
            (:class:`dap.features.timm_encoder.TimmEncoder`).
        prior: The prior of "vae" and "prior", as for :func:`dap.priors.load_prior`.
        device: Where a network runs; the GPU, if there is one, if left out.
        options: Options of the encoder's class, such as ``size``, or ``pretrained`` and ``weights`` of timm's models.

    Raises:
        OptionError: A name, an option or a value is unknown.

    Example:
        >>> encoder_by_name("pixels", size=16)
        PixelEncoder(size=16)
    """
    if not isinstance(name, str) or not name:
        raise OptionError(
            f"features: expected {', '.join(NAMES)}, the name of a model of timm, or an Encoder, got {name!r}"
        )
    kind = f"features {name!r}"
    if "model" in options:
        raise OptionError(f"{kind}: the model's name is that of the features; leave model= out")
    if name in ("vae", "prior"):
        if prior is None:
            raise OptionError(f"{kind}: expected the prior that encodes the images (prior=), got none")
        options = {"prior": load_prior(prior, device=device), **options}
        return from_options(VAEEncoder if name == "vae" else PriorEncoder, options, kind)
    if prior is not None:
        raise OptionError(f"{kind}: they need no prior; leave prior= out")
    if name == "pixels":
        return from_options(PixelEncoder, options, kind)
    from dap.features.timm_encoder import TimmEncoder  # imports timm, which takes a second

    return from_options(TimmEncoder, {"model": name.removeprefix("timm/"), "device": device, **options}, kind)


def with_labels(encoder: Encoder, source: Source) -> tuple[Encoder, list[int]]:
    """Return an encoder that knows the classes of a source, and the label of each class for :meth:`Encoder.rows`.

    Only the prior's own features depend on labels: an encoder of others is returned as it is, with zeros.

    Raises:
        OptionError: The prior does not know a class.
    """
    if not isinstance(encoder, PriorEncoder):
        return encoder, [0] * len(source.class_names)
    prior = encoder.prior.for_classes(source.class_names)
    try:
        entries = build_class_map(source, prior.labels_of(source.class_names))
    except ClassMapError as error:
        raise OptionError(
            f"features 'prior': prior {prior.name} does not know a class of {source.name}; take features of images "
            "alone: 'pixels', 'vae', or a model of timm"
        ) from error
    return replace(encoder, prior=prior), [entry.label for entry in entries]


EncoderType.by_name = staticmethod(encoder_by_name)
