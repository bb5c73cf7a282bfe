"""What a user can do with images that a prior does not suit, for messages."""

from __future__ import annotations

__all__ = ["ways_out"]

TEXT_PRIOR = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def ways_out(source: str) -> str:
    """Return the calls that work for any images; the command line shows them as its own commands.

    Args:
        source: The name of the source.

    Example:
        >>> ways_out("photos").partition(";")[0]
        "train a prior on the images, dap.train_prior('photos', out='prior')"
    """
    return (
        f"train a prior on the images, dap.train_prior({source!r}, out='prior'); take one that reads text, "
        f"dap.distill({source!r}, prior={TEXT_PRIOR!r}, out='distilled'); "
        f"or choose real images, dap.distill({source!r}, method='k_medoids', out='own')"
    )
