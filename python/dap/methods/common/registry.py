"""Which methods there are, and how others come to be among them: ``dap.list_methods`` and ``dap.register_method``."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

from dap.config import from_options
from dap.errors import OptionError
from dap.registry import Registry, unknown_name_error

__all__ = ["METHODS", "MethodInfo", "check_method", "list_methods", "register_method"]

logger = logging.getLogger(__name__)

GROUP = "dap.methods"
NEEDS = ("prior", "labels", "classifier", "training", "text")
PARTS = ("name", "paper", "year", "needs", "couples", "presets", "prepare", "make", "record")

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class MethodInfo:
    """What there is to know about a method before it is chosen.

    Attributes:
        name: What ``method=`` and ``--method`` take.
        paper: A short reference.
        year: When it was published; None: it was not.
        needs: Of "prior", "labels", "classifier", "training" and "text"; see :class:`dap.methods.Method`.
        couples: "slot", or "class" where the images of a class depend on each other.
        presets: Names of its presets, for ``method="name:preset"``.
    """

    name: str
    paper: str
    year: int | None
    needs: tuple[str, ...]
    couples: Literal["slot", "class"]
    presets: tuple[str, ...]


def list_methods() -> list[MethodInfo]:
    """The methods: those of dap, then those that were registered.

    Example:
        >>> next(each for each in list_methods() if each.name == "dap").paper
        'Su et al., ICLR 2026, arXiv 2510.17421'
    """
    return [
        MethodInfo(cls.name, cls.paper, cls.year, cls.needs, cls.couples, tuple(cls.presets))
        for cls in (METHODS[name] for name in METHODS)
    ]


def register_method(cls: C) -> C:
    """Class decorator that makes a method usable by its name; ``docs/extending.md`` shows how to write one.

    A package that is installed can instead name the class as an entry point of the group "dap.methods".

    Args:
        cls: A frozen dataclass with the parts of :class:`dap.methods.Method`.

    Raises:
        OptionError: It lacks a part, a part is not what it has to be, or another method has its name.

    Example:
        >>> from dataclasses import dataclass
        >>> @register_method
        ... @dataclass(frozen=True)
        ... class Mine:
        ...     name = "mine"
        Traceback (most recent call last):
        dap.errors.OptionError: method Mine lacks paper, year, needs, couples, presets, prepare, make, record
    """
    check_method(cls)
    METHODS.register(cls.name)(cls)  # type: ignore[attr-defined]
    return cls


def check_method(cls: Any) -> None:
    """Refuses a class that is no method, and says what it lacks; see :func:`register_method`."""
    if not isinstance(cls, type):
        raise OptionError(f"expected the class of a method, got {cls!r}")
    what = f"method {cls.__name__}"
    lacking = [part for part in PARTS if not hasattr(cls, part)]
    if lacking:
        raise OptionError(f"{what} lacks {', '.join(lacking)}")
    parameters = getattr(cls, "__dataclass_params__", None)
    if "__dataclass_params__" not in vars(cls) or parameters is None or not parameters.frozen:
        raise OptionError(f"{what}: write @dataclass(frozen=True) directly above the class: its fields are its options")
    named: Any = cls
    if not isinstance(named.name, str) or not named.name or set(named.name) & set(": \t\n"):
        raise OptionError(f"{what}: name: expected text without colon or space, got {named.name!r}")
    for part, kinds in (("paper", str), ("year", int | None), ("needs", tuple), ("presets", Mapping)):
        if not isinstance(getattr(cls, part), kinds):
            wanted = getattr(kinds, "__name__", str(kinds))
            raise OptionError(f"{what}: {part}: expected {wanted}, got {getattr(cls, part)!r}")
    for need in named.needs:
        if need not in NEEDS:
            raise unknown_name_error(f"need of {what}", need, NEEDS)
    if named.couples not in ("slot", "class"):
        raise unknown_name_error(f"couples of {what}", named.couples, ("slot", "class"))
    for field in dataclasses.fields(cls):
        if field.default is field.default_factory is dataclasses.MISSING:
            raise OptionError(f"{what}: option {field.name!r} has no default, and a method is called by its name alone")
    for preset, options in named.presets.items():
        from_options(cls, options, f"preset {preset!r} of {what}")


def _discover() -> None:
    """Registers the methods of installed packages; one that is broken is named, and hides no other."""
    for entry in sorted(entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        try:
            register_method(entry.load())
        except Exception as error:  # code of other packages, imported here: anything may go wrong in it
            logger.warning("entry point %r (%s) is left out: %s", entry.name, entry.value, error)


METHODS: Registry[type[Any]] = Registry("method", _discover)
