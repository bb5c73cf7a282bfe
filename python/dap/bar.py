"""Progress bars, and what Ctrl-C leaves behind."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm.auto import tqdm

__all__ = ["NO_BARS", "Bars", "bars_hidden", "progress_bar"]

_HIDDEN = ContextVar("dap.bar.hidden", default=False)


class _Bar(tqdm):  # type: ignore[misc]
    """A bar with a lock of this process alone; tqdm's own is the system's, which a killed child would leave locked."""


_Bar.set_lock(threading.RLock())
os.register_at_fork(after_in_child=lambda: _Bar.set_lock(threading.RLock()))


@contextmanager
def bars_hidden() -> Iterator[None]:
    """Show no bar within the block."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def progress_bar(
    title: str | None, *, total: int, unit: str, done: int = 0, shown: bool = True, leave: bool = True
) -> tqdm:
    """Return a bar on standard error, which is shown in a terminal or a notebook, and nowhere else.

    Args:
        title: Text before the bar.
        total: Units in all; without any there is no bar.
        unit: What is counted.
        done: Units that were done before.
        shown: False: there is no bar.
        leave: Whether it stays on the screen, with the time that it took, when it is closed.
    """
    shown = shown and not _HIDDEN.get()
    watched = sys.stderr.isatty() or _in_notebook()
    return _Bar(
        total=total, initial=done, desc=title, unit=unit, leave=leave, disable=not (shown and total and watched)
    )


def _in_notebook() -> bool:
    """Return whether this is the process of a notebook; other packages import its modules elsewhere too."""
    interactive = sys.modules.get("IPython")
    return interactive is not None and type(interactive.get_ipython()).__name__ == "ZMQInteractiveShell"


class Bars:
    """Opens a bar for each stage of a long work.

    Args:
        shown: Whether bars are shown; see :func:`progress_bar`.
    """

    def __init__(self, *, shown: bool) -> None:
        self.shown = shown

    @contextmanager
    def stage(
        self,
        title: str | None,
        *,
        total: int,
        unit: str,
        kept: str,
        done: int = 0,
        leave: bool = True,
        made: bool = False,
    ) -> Iterator[tqdm]:
        """Yield the bar of a stage, whose ``update(n)`` counts.

        If Ctrl-C ends the stage, ``kept`` becomes a note of the KeyboardInterrupt, which the command line prints.

        Args:
            title: Text before the bar.
            total: Units in all.
            unit: What is counted.
            kept: What is kept of the stage when it is stopped, and what the same command will do.
            done: Units that were done before.
            leave: Whether the bar stays on the screen when the stage has ended.
            made: Whether the stage works on made images, so that it does not take longer with more real ones.
        """
        with progress_bar(title, total=total, unit=unit, done=done, shown=self.shown, leave=leave) as bar:
            try:
                yield bar
            except KeyboardInterrupt as error:
                error.add_note(kept)
                raise


NO_BARS = Bars(shown=False)
