"""The mean and deviation of ImageNet's channels, by which published protocols and methods normalise images."""

from __future__ import annotations

__all__ = ["normal_values"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # Minimax, data.py 15-16; RDED, validation/main.py 111-113
GREY_MEAN, GREY_STD = 0.449, 0.226  # of grey images, which the references do not have at this size: the averages


def normal_values(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the deviation of each channel, of values in [0, 1].

    Args:
        channels: 1 for grey, 3 for RGB.

    Example:
        >>> normal_values(1)
        ((0.449,), (0.226,))
    """
    return (MEAN, STD) if channels == 3 else ((GREY_MEAN,), (GREY_STD,))
