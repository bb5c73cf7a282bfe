"""Checks that real images are of the kind that a prior was made for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dap.config import check_choice
from dap.data.appearance import CHANNELS, in_words
from dap.data.ways_out import ways_out
from dap.errors import OptionError

if TYPE_CHECKING:
    from dap.data.source import Source
    from dap.priors import Prior

__all__ = ["check_channels", "check_images", "other_channels"]

logger = logging.getLogger(__name__)

FAR = 4  # a side of this many times the prior's is worth a line
WORDS = {1: "grey", 3: "RGB"}


def check_channels(channels: str | None) -> None:
    """Raise OptionError unless the option ``channels`` is None, "grey" or "rgb"."""
    if channels is not None:
        check_choice("channels", channels, CHANNELS)


def other_channels(source: Source, prior: Prior, channels: str | None = None) -> str | None:
    """Return the reason why images have other channels than a prior makes, unless they are to be converted.

    Args:
        source: The images.
        prior: The prior.
        channels: "grey" or "rgb": the user asks for images to be converted to this; None: they are not.

    Raises:
        OptionError: The prior makes no images of these channels.
    """
    made = prior.image_shape[0]
    if channels is not None:
        if CHANNELS[channels] != made:
            raise OptionError(
                f"channels: the prior {prior.name} makes {WORDS.get(made, made)} images, got {channels!r}"
            )
        return None
    appearance = source.appearance
    if (made == 1 and appearance.coloured) or (made == 3 and appearance.channels == 1):
        theirs = "in colour" if appearance.coloured else "grey"
        return f"its images are {theirs}, and the prior {prior.name} makes {WORDS[made]} images"
    return None


def check_images(source: Source, prior: Prior, channels: str | None = None) -> None:
    """Raise unless images have the channels that a prior makes; log a warning if they are far larger.

    Args:
        source: The images.
        prior: The prior.
        channels: See :func:`other_channels`.

    Raises:
        OptionError: The channels differ; the message names the ways out.
    """
    reason = other_channels(source, prior, channels)
    if reason is not None:
        convert = f"channels={in_words(prior.image_shape[0])!r}"
        raise OptionError(f"{source.name}: {reason}: convert them ({convert}); or {ways_out(source.name)}")
    size = prior.image_shape[1]
    if source.appearance.size >= FAR * size:
        logger.warning(
            "%s: its images, of %d pixels, are reduced to the %d of the prior %s, which was made for small images",
            source.name, source.appearance.size, size, prior.name,
        )  # fmt: skip
