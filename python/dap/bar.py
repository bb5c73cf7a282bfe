"""Progress bars."""

from __future__ import annotations

import sys

from tqdm.auto import tqdm

__all__ = ["progress_bar"]


def progress_bar(title: str | None, *, total: int, unit: str, done: int = 0, shown: bool = True) -> tqdm:
    """Return a bar on standard error, which is shown in a terminal or a notebook, and nowhere else.

    Args:
        title: Text before the bar.
        total: Units in all; without any there is no bar.
        unit: What is counted.
        done: Units that were done before.
        shown: False: there is no bar.
    """
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, initial=done, desc=title, unit=unit, disable=not (shown and total and watched))
