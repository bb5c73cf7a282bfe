"""Free disk space, which is checked before something large is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from dap.errors import OptionError

__all__ = ["check_space", "size_text"]


def check_space(folder: Path, need: int, subject: str, advice: str) -> None:
    """Raise OptionError if the disk of a folder has too little free space.

    Args:
        folder: The folder, which may not exist yet.
        need: Bytes that will be written.
        subject: What will be written, with its verb, such as "latents of 12 images take".
        advice: What to do about it.

    Example:
        >>> check_space(Path("."), 10**18, "images take", "choose fewer")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dap.errors.OptionError: images take 1,000,000,000.0 GB, the disk of . has ... GB free: choose fewer
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if need > free:
        raise OptionError(f"{subject} {size_text(need)}, the disk of {folder} has {size_text(free)} free: {advice}")


def size_text(count: int) -> str:
    """Return a number of bytes in GB, MB or kB.

    Example:
        >>> size_text(6_000_000_000), size_text(600_000)
        ('6.0 GB', '600.0 kB')
    """
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if count >= unit), (1e3, "kB"))
    return f"{count / unit:,.1f} {name}"
