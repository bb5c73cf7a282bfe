"""What a user can do with images that a prior does not suit, for messages."""

from __future__ import annotations

from pathlib import Path

from dap.data.builtin import BUILTIN

__all__ = ["argument", "ways_out"]

TEXT_PRIOR = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def argument(source: str) -> str:
    """Return a source as the argument of a call: its name, or "source" for images in memory, which no name opens.

    Example:
        >>> argument("fashion-mini"), argument("TensorDataset")
        ("'fashion-mini'", 'source')
    """
    file = source.rpartition(" (")[0]  # before the name of a label column
    if file and Path(file).exists():
        return repr(file)
    opens = source in BUILTIN or "/" in source or Path(source).exists()  # a path, or an id of the hub
    return repr(source) if opens else "source"


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
