"""Name registries with did-you-mean errors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Generic, TypeVar

from dap.errors import OptionError

__all__ = ["Registry", "nearest", "unknown_name_error"]

T = TypeVar("T")

LISTED = 20  # names in an error


def unknown_name_error(kind: str, name: object, known: Iterable[str]) -> OptionError:
    """The error for an unknown name: it lists the known names, at most 20, and suggests the nearest.

    Example:
        >>> str(unknown_name_error("method", "dapp", ["dap", "dit"]))
        "unknown method 'dapp'; did you mean 'dap'? Known: dap, dit"
    """
    names = sorted(known)
    near = nearest(str(name), names)
    hint = f"; did you mean {near!r}?" if near else "."
    if any("," in entry for entry in names):
        names = list(map(repr, names))  # of "tenth, late" it would not be seen that it is one name
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return OptionError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names[:LISTED])}{more}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``, regardless of case; None if none is.

    A name that has ``name`` as one of its words goes before one that is spelt like it.

    Example:
        >>> nearest("--steps", ["--set", "--num-inference-steps"]), nearest("DAP", ["dap", "dit"])
        ('--num-inference-steps', 'dap')
    """
    folded = {entry.casefold(): entry for entry in known}
    text = name.casefold()
    if text in folded:
        return folded[text]
    with_word = [entry for entry in folded if text.strip("-_ ") in re.findall(r"[^\W_]+", entry)]
    near = with_word or difflib.get_close_matches(text, folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None


class Registry(Generic[T]):
    """Maps names to entries of one kind, such as kernels, in the order in which they were registered.

    Args:
        kind: The word for an entry in error messages, such as "kernel".
        discover: Registers the entries of other packages; called once, when the registry is first read.
        check: Raises unless an entry is fit to be registered; called with each entry.

    Example:
        >>> shapes: Registry[type] = Registry("shape")
        >>> @shapes.register("circle")
        ... class Circle: ...
        >>> list(shapes), shapes["circle"] is Circle
        (['circle'], True)
        >>> shapes["circel"]
        Traceback (most recent call last):
        dap.errors.OptionError: unknown shape 'circel'; did you mean 'circle'? Known: circle
    """

    def __init__(
        self, kind: str, discover: Callable[[], None] | None = None, *, check: Callable[[T], None] | None = None
    ) -> None:
        self.kind = kind
        self._check = check
        self._discover = discover
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers an entry under ``name``.

        Raises:
            OptionError: When it is applied, if another entry has that name or ``check`` refuses the entry.
        """

        def add(entry: T) -> T:
            if self._check is not None:
                self._check(entry)
            if name in self._entries and _definition(entry) != _definition(self._entries[name]):
                raise OptionError(f"a {self.kind} named {name!r} is registered already")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        entries = self._read()
        if name not in entries:
            raise unknown_name_error(self.kind, name, entries)
        return entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def _read(self) -> dict[str, T]:
        discover, self._discover = self._discover, None
        if discover is not None:
            discover()
        return self._entries


def _definition(entry: object) -> object:
    """The module and name of a class or function, which stay the same when a notebook cell is run again."""
    return (entry.__module__, entry.__qualname__) if isinstance(entry, type | FunctionType) else entry
