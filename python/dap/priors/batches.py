"""How many images go through a prior's networks at once, where nobody chooses it.

The rule: as many as need at most 4 GiB, rounded down to a power of two; of real images at most 256, which an index
computes together. The need of one image follows from the networks' widths, the side of the image and the data type
alone. So a run that is continued on another machine groups its images in the same way and makes the same bytes. Priors
of small images (``fashion-dit``) encode whole groups and decode whole units. A VAE of Stable Diffusion in float32 takes
16 images of 256 pixels at once, or 4 of 512.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Batches", "ImageBytes", "first_stage_bytes", "fitting"]

BUDGET = 2**32  # bytes
MOST = 256  # as many rows as an index computes together
WIDTHS = (128, 256, 512, 512)  # of Stable Diffusion's VAE: the guess for a first stage that is not known
# Values per channel and position that are held at once: by a residual layer with its input, its result and their sum;
# by the first layer of a decoder's level, whose input still has the channels of the level below
LAYER, ENTRY = 5, 3
# Values per channel and position that it keeps for a backward pass: two normalisations, activations and convolutions
KEPT = 6


@dataclass(frozen=True)
class ImageBytes:
    """The memory that one image takes in a prior's networks, in bytes.

    Attributes:
        encode: While it is encoded.
        decode: While it is decoded.
        decode_graph: While it is decoded with a graph.
        features: While the denoiser runs without a graph.
    """

    encode: int
    decode: int
    decode_graph: int
    features: int


@dataclass(frozen=True)
class Batches:
    """How many images go through a prior's networks at once.

    Attributes:
        encode: Images that are encoded together.
        decode: Latents that are decoded together.
        decode_graph: Latents that are decoded together with a graph.
        features: Latents whose features are computed together, without a graph.
    """

    encode: int
    decode: int
    decode_graph: int
    features: int

    @classmethod
    def of(cls, image: ImageBytes) -> Batches:
        """Return the batches that the rule gives for the memory of one image."""
        return cls(
            fitting(image.encode, MOST), fitting(image.decode), fitting(image.decode_graph),
            fitting(image.features, MOST),
        )  # fmt: skip


def fitting(image_bytes: int, most: int | None = None) -> int:
    """Return how many images fit the budget, as a power of two from 1 to ``most``.

    Example:
        >>> fitting(200 * 2**20), fitting(2**40), fitting(1000, most=256)
        (16, 1, 256)
    """
    count = max(1, BUDGET // max(1, image_bytes))
    power = 1 << (count.bit_length() - 1)
    return power if most is None else min(power, most)


def first_stage_bytes(
    side: int, itemsize: int, *, widths: Sequence[int] = WIDTHS, layers: int = 2
) -> tuple[int, int, int]:
    """Return the memory of one image in a first stage: to encode, to decode, and to decode with a graph.

    Args:
        side: Side of the image in pixels.
        itemsize: Bytes of a value.
        widths: Channels of each level, from the image down; each level halves the side.
        layers: Residual layers of a level of the encoder; the decoder has one more.

    Example:
        >>> [round(size / 2**20) for size in first_stage_bytes(256, 4)]
        [160, 192, 1574]
    """
    encode = decode = kept = 0
    for level, width in enumerate(widths):
        positions = max(1, side >> level) ** 2
        below = widths[min(level + 1, len(widths) - 1)]  # the channels that come up from the level below
        encode = max(encode, LAYER * width * positions)
        decode = max(decode, LAYER * width * positions, ENTRY * below * positions)
        kept += (KEPT * (layers + 1) * width + 5 * below) * positions
    return itemsize * encode, itemsize * decode, itemsize * max(kept, decode)
