"""Errors about memory that could not be had: how they are recognised, and what dap says in their place."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dap.errors import OutOfMemoryError

__all__ = ["ADVICE", "in_own_words", "is_short_memory", "memory_for"]

ADVICE = "a method or options that need less, or on a GPU dtype='bfloat16' (docs/memory.md)"
SAID = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")  # by torch, in several places


def is_short_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be had, of the machine or of a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


def in_own_words(error: BaseException, work: str, advice: str = ADVICE) -> OutOfMemoryError:
    """Return dap's error for one that says that memory could not be had.

    Args:
        error: What was raised.
        work: For what the memory was too short, "to prepare method 'dm'".
        advice: What to choose.
    """
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    return OutOfMemoryError(f"the memory was too short {work} ({said.rstrip('. ')}): choose {advice}")


@contextmanager
def memory_for(work: str, advice: str = ADVICE) -> Iterator[None]:
    """Raise dap's error where memory is too short in the block, or in a function with this as its decorator.

    The arguments are those of :func:`in_own_words`. An error that dap has put in its own words already stays.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not is_short_memory(error):
            raise
        raise in_own_words(error, work, advice) from error
