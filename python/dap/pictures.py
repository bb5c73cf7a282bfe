"""The check that a picture can be drawn into a file, before there is anything to draw."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from dap.errors import OptionError

__all__ = ["PICTURES", "check_picture"]

PICTURES = (".png", ".pdf", ".svg")


def check_picture(file: Path, name: str = "plot") -> None:
    """Check that matplotlib can draw a picture into a file.

    Args:
        file: The file.
        name: The option's name in errors.

    Raises:
        OptionError: Its name ends in another way than :data:`PICTURES`, its folder is missing, or there is no
            matplotlib.

    Example:
        >>> check_picture(Path("plot.gif"))
        Traceback (most recent call last):
        dap.errors.OptionError: plot: expected a file that ends in .png, .pdf, .svg, got 'plot.gif'
    """
    if file.suffix not in PICTURES:
        raise OptionError(f"{name}: expected a file that ends in {', '.join(PICTURES)}, got {str(file)!r}")
    if not file.absolute().parent.is_dir():
        raise OptionError(f"{name} {file}: there is no folder {file.absolute().parent}")
    if find_spec("matplotlib") is None:
        raise OptionError(f"{name}: a picture needs matplotlib: pip install 'dap-distill[plot]'")
