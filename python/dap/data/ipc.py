"""How many images each class gets: one number for all classes, or a mapping from class to number.

A manifest has the number of a run as ``ipc``, and in ``ipc_stages`` that of each time that images were added. A mapping
there names the classes of which the run had images at that time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from dap.config import check_choice, check_whole
from dap.data.names import some
from dap.errors import OptionError

__all__ = ["Ipc", "check_ipc", "counts_of", "ipc_of", "numbers_of_classes"]

Ipc: TypeAlias = int | Mapping[str, int]


def check_ipc(ipc: object) -> Ipc:
    """Return the option ``ipc``, with Python's own numbers.

    Raises:
        OptionError: It is no whole number of at least 1, and no mapping of names to such numbers.
    """
    if not isinstance(ipc, Mapping):
        return check_whole("ipc", ipc)
    if not ipc:
        raise OptionError("ipc: expected a number for each class, got an empty mapping")
    return {str(name): check_whole(f"ipc of class {name!r}", number) for name, number in ipc.items()}


def counts_of(ipc: Ipc, names: Sequence[str]) -> tuple[int, ...]:
    """Return the number of images of each class of a run.

    Args:
        ipc: The option.
        names: Names of the run's classes.

    Raises:
        OptionError: A mapping lacks a class, or names another.

    Example:
        >>> counts_of({"cat": 10, "dog": 3}, ["dog", "cat"])
        (3, 10)
    """
    if not isinstance(ipc, Mapping):
        return (ipc,) * len(names)
    for name in ipc:
        check_choice("class in ipc", name, names)
    if missing := [name for name in names if name not in ipc]:
        raise OptionError(f"ipc: has no number for class {some(missing)}: name every class, or leave it out (classes=)")
    return tuple(ipc[name] for name in names)


def ipc_of(counts: Sequence[int], names: Sequence[str]) -> int | dict[str, int]:
    """Return the numbers of images of some classes as a manifest has them; classes with 0 images are left out.

    Example:
        >>> ipc_of([3, 3], ["dog", "cat"]), ipc_of([3, 0], ["dog", "cat"])
        (3, {'dog': 3})
    """
    if len(set(counts)) == 1:
        return counts[0]
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def numbers_of_classes(ipc: Ipc, names: Sequence[str]) -> tuple[int, ...]:
    """Return the number of each class by what a manifest has; 0 for a class that a mapping does not name."""
    return tuple(ipc.get(name, 0) for name in names) if isinstance(ipc, Mapping) else (ipc,) * len(names)
