"""What a user can do with images that a prior does not suit, for messages."""

from __future__ import annotations

import os

from dap.data.builtin import BUILTIN
from dap.data.shard_paths import SHARD_SUFFIXES

__all__ = ["argument", "ways_out"]

TEXT_PRIOR = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def argument(source: str) -> str:
    """Return a source as the argument of a call: its name, or "source" if no name opens it.

    These are images in memory, and sources with a label column, which the name has in parentheses.

    Example:
        >>> argument("fashion-mini"), argument("TensorDataset"), argument("org/name (fine)")
        ("'fashion-mini'", 'source', 'source')
    """
    if source in BUILTIN or os.path.exists(source):
        return repr(source)
    with_column = source.endswith(")") and " (" in source
    opens = "/" in source or source.endswith(SHARD_SUFFIXES)  # a path or an id of the hub, or a pattern
    return repr(source) if opens and not with_column else "source"


def ways_out(source: str) -> str:
    """Return the calls that work for any images; the command line shows them as its own commands.

    Args:
        source: The name of the source.

    Example:
        >>> ways_out("fashion-mini").partition(";")[0]
        "train a prior on the images, dap.train_prior('fashion-mini', out='prior')"
    """
    given = argument(source)
    return (
        f"train a prior on the images, dap.train_prior({given}, out='prior'); take one that reads text, "
        f"dap.distill({given}, prior={TEXT_PRIOR!r}, out='distilled'); "
        f"or choose real images, dap.distill({given}, method='k_medoids', out='own')"
    )
