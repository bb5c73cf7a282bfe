"""Ends a run before it is finished: after a time, or when the system asks for it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

from dap.errors import StoppedError

__all__ = ["RESUME", "check_stop", "exit_at_sigterm", "stop_at_signals", "time_limit"]

RESUME = 75  # the exit code of a run that was stopped, which the same command continues; EX_TEMPFAIL
GRACE = 20.0  # seconds for the unit that is being made; SLURM and Kubernetes kill after 30

_until: ContextVar[float | None] = ContextVar("until", default=None)
_reasons: list[str] = []  # names of signals, which reach the whole process


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Let runs in the block end with the unit that they are at after some seconds; None: never."""
    token = _until.set(None if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def check_stop(out: Path) -> None:
    """Raise if the run in ``out`` is to end before its next unit.

    Raises:
        StoppedError: It says why.
    """
    until = _until.get()
    reason = _reasons[0] if _reasons else "max_time is over" if until and time.monotonic() > until else None
    if reason:
        raise StoppedError(f"{out}: stopped ({reason}); what is made stays, and the same command makes the rest")


@contextmanager
def exit_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block by an exception, so that its temporary folders and processes go too.

    Only for processes that are dap's own, and only in the main thread.

    Raises:
        SystemExit: SIGTERM came; with the exit code of a process that it ends, 143.
    """
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_at_signals() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 end a run in the block with the unit that it is at, or without it after :data:`GRACE`.

    The second Ctrl-C ends the process at once. Only for processes that are dap's own (the command line and the workers
    that it starts), and only in the main thread.

    Raises:
        SystemExit: The unit took longer than :data:`GRACE`; with the exit code :data:`RESUME`.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)}
    for number, handler in zip(before, (_ask, _ask, _abandon), strict=True):
        signal.signal(number, handler)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell lets it be ignored
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, former in before.items():
            signal.signal(number, former)
        if signal.getsignal(signal.SIGINT) is _interrupt:  # after a Ctrl-C, the next one still ends the process
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _reasons.clear()


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _ask(number: int, frame: FrameType | None) -> None:
    if not _reasons:
        _reasons.append(signal.Signals(number).name)
        signal.setitimer(signal.ITIMER_REAL, GRACE)


def _abandon(number: int, frame: FrameType | None) -> None:
    raise SystemExit(RESUME)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt
