"""The prior of a run of real images: there is none, and whatever needs one is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from dap.errors import OptionError
from dap.priors.base import Prediction, Prior
from dap.priors.batches import ImageBytes

__all__ = ["NoPrior"]


class NoPrior(Prior):
    """Stands in the place of the prior where a method needs none; it has the shape of the images and nothing else.

    Args:
        image_shape: (channels, height, width) of the run's images.
        device: Where the method computes; None: on the CPU.
    """

    name = "no prior"
    latent_shape = (0, 0, 0)
    block_names: tuple[str, ...] = ()
    slot_bytes = 1  # no step is taken
    dtype = torch.float32
    encoding_bytes = 0  # nothing is encoded by a prior
    image_bytes = ImageBytes(0, 0, 0, 0)

    def __init__(self, image_shape: tuple[int, int, int], device: torch.device | None = None) -> None:
        self.image_shape = image_shape
        self.device = device or torch.device("cpu")

    def labels_of(self, class_names: Sequence[str]) -> Mapping[str, int]:
        """Return no labels."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def encode(self, images: Tensor) -> Tensor:
        """Raise OptionError, as all methods below."""
        _refuse()

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """See :meth:`encode`."""
        _refuse()

    def scheduler(self, name: str | None, num_inference_steps: int) -> NoReturn:
        """See :meth:`encode`."""
        _refuse()

    def denoise(
        self,
        sample: Tensor,
        timestep: Tensor,
        labels: Tensor,
        *,
        guidance_scale: float = 1.0,
        taps: Collection[int] = (),
        through: bool = False,
        condition: Tensor | None = None,
        sigma: float | None = None,
    ) -> Prediction:
        """See :meth:`encode`."""
        _refuse()


def _refuse() -> NoReturn:
    raise OptionError("this method samples from a prior, and none was given: add 'prior' to the needs of the method")
