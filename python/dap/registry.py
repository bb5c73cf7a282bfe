"""Tables from names to things, and what is said when a name is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from dap.errors import OptionError

__all__ = ["Registry", "unknown_name"]

T = TypeVar("T")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> OptionError:
    """The error for a name that is not known: it lists the known ones and offers the nearest.

    Example:
        >>> str(unknown_name("method", "dapp", ["dap", "dit"]))
        "unknown method 'dapp'; did you mean 'dap'? Known: dap, dit"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return OptionError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}")


class Registry(Generic[T]):
    """Names of one kind of thing ("method", "kernel"), in the order in which they were registered."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a thing under ``name``; a name that is taken is an error."""

        def enter(thing: T) -> T:
            if name in self._things:
                raise OptionError(f"a {self.kind} named {name!r} is registered already")
            self._things[name] = thing
            return thing

        return enter

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            raise unknown_name(self.kind, name, self._things)
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)
