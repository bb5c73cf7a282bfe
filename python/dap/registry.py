"""Tables from names to things, and what is said when a name is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from dap.errors import OptionError

__all__ = ["Registry", "unknown_name_error"]

T = TypeVar("T")


def unknown_name_error(kind: str, name: object, known: Iterable[str]) -> OptionError:
    """The error for a name that is not known: it lists the known ones and offers the nearest.

    Example:
        >>> str(unknown_name_error("method", "dapp", ["dap", "dit"]))
        "unknown method 'dapp'; did you mean 'dap'? Known: dap, dit"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return OptionError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}")


class Registry(Generic[T]):
    """Names of one kind of thing ("method", "kernel"), in the order in which they were registered.

    Args:
        kind: What a thing is called in errors.
        discover: Registers what other packages bring; called once, when the table is first read.
    """

    def __init__(self, kind: str, discover: Callable[[], None] | None = None) -> None:
        self.kind = kind
        self._discover = discover
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a thing under ``name``; a name that another thing has is an error."""

        def enter(thing: T) -> T:
            if name in self._things and _definition(thing) != _definition(self._things[name]):
                raise OptionError(f"a {self.kind} named {name!r} is registered already")
            self._things[name] = thing
            return thing

        return enter

    def __getitem__(self, name: str) -> T:
        things = self._read()
        if name not in things:
            raise unknown_name_error(self.kind, name, things)
        return things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def _read(self) -> dict[str, T]:
        discover, self._discover = self._discover, None
        if discover is not None:
            discover()
        return self._things


def _definition(thing: object) -> object:
    """Where a class or function was written, so that a notebook's cell can be run again; a value is itself."""
    return (thing.__module__, thing.__qualname__) if hasattr(thing, "__qualname__") else thing
