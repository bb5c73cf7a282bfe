"""The registry of methods: ``dap.list_methods`` and ``dap.register_method``."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TypeVar

from dap.config import check_choice, from_options
from dap.errors import OptionError
from dap.methods.base import AnyMethod, Couples, Method
from dap.methods.common.guides import AnyGuide, Guide, Guided
from dap.methods.common.summaries import COSTS, SUMMARIES
from dap.registry import Registry
from dap.result_text import html_table
from dap.seams import check_class

__all__ = ["METHODS", "MethodInfo", "check_method", "get_method", "list_methods", "register_method"]

logger = logging.getLogger(__name__)

GROUP = "dap.methods"
NEEDS = ("prior", "labels", "classifier", "training", "text")

C = TypeVar("C", bound="type[AnyMethod]")


@dataclass(frozen=True)
class MethodInfo:
    """A method's entry in the registry.

    Attributes:
        name: The name that ``method=`` and ``--method`` take.
        paper: A short reference.
        year: Year of publication; None if it was not published.
        needs: Any of "prior", "labels", "classifier", "training" and "text"; see :class:`dap.methods.Method`.
        couples: "slot"; "class" if the images of a class depend on each other, "sequence" if each depends on those
            before it.
        presets: Names of its presets, for ``method="name:preset"``.
        summary: What it does, in one line.
        cost: Time per image divided by that of ``dit`` (:mod:`dap.methods.common.summaries`); "?" if not measured.
    """

    name: str
    paper: str
    year: int | None
    needs: tuple[str, ...]
    couples: Couples
    presets: tuple[str, ...]
    summary: str = ""
    cost: str = "?"

    def _repr_html_(self) -> str:
        rows = [["method", self.name], ["what it does", self.summary], ["cost, times dit", self.cost]]
        rows += [["year", str(self.year)], ["couples", self.couples], ["needs", ", ".join(self.needs) or "nothing"]]
        return html_table([*rows, ["presets", ", ".join(self.presets) or "none"], ["paper", self.paper]])


def list_methods() -> list[MethodInfo]:
    """List the methods: those of dap, then those that were registered.

    Example:
        >>> next(info for info in list_methods() if info.name == "dap").paper
        'Su et al., ICLR 2026, arXiv 2510.17421'
    """
    return [
        MethodInfo(
            cls.name, cls.paper, cls.year, cls.needs, cls.couples, tuple(cls.presets),
            _summary(cls), COSTS.get(cls.name, "?"),
        )
        for cls in (METHODS[name] for name in METHODS)
    ]  # fmt: skip


def _summary(cls: type[AnyMethod]) -> str:
    """What a method does: dap's own line, or the first line of the docstring, but not the one that dataclasses make."""
    line = SUMMARIES.get(cls.name) or (inspect.getdoc(cls) or "").partition("\n")[0]
    return "" if line.startswith(f"{cls.__name__}(") else line


def register_method(cls: C) -> C:
    """Make a method usable by its name; a class decorator. ``docs/extending.md`` shows how to write a method.

    A package that is installed can instead name the class as an entry point of the group "dap.methods".

    Args:
        cls: A frozen dataclass that subclasses :class:`dap.methods.Method`.

    Raises:
        OptionError: It lacks a part, a part is not what it has to be, or another method has its name.

    Example:
        >>> from dataclasses import dataclass
        >>> from dap.methods import Method
        >>> @register_method
        ... @dataclass(frozen=True)
        ... class Mine(Method):
        ...     name = "mine"
        Traceback (most recent call last):
        dap.errors.OptionError: method Mine lacks paper, year, needs, couples, presets, prepare, make, record
    """
    check_method(cls)
    METHODS.register(cls.name)(cls)
    return cls


def check_method(cls: type[AnyMethod]) -> None:
    """Raise OptionError unless ``cls`` is the class of a method; see :func:`register_method`."""
    check_class(cls, Method)
    method = f"method {cls.__name__}"
    if not isinstance(cls.name, str) or not cls.name or set(cls.name) & set(": \t\n"):
        raise OptionError(f"{method}: name: expected text without colon or space, got {cls.name!r}")
    for part, value, kind in (
        ("paper", cls.paper, str), ("year", cls.year, int | None), ("needs", cls.needs, tuple),
        ("presets", cls.presets, Mapping),
    ):  # fmt: skip
        if not isinstance(value, kind):
            expected = kind.__name__ if isinstance(kind, type) else str(kind)
            raise OptionError(f"{method}: {part}: expected {expected}, got {value!r}")
    for need in cls.needs:
        check_choice(f"need of {method}", need, NEEDS)
    check_choice(f"couples of {method}", cls.couples, ("slot", "class", "sequence"))
    for field in dataclasses.fields(cls):
        if field.default is field.default_factory is dataclasses.MISSING:
            raise OptionError(
                f"{method}: option {field.name!r} has no default, and a method is called by its name alone"
            )
    for preset, options in cls.presets.items():
        from_options(cls, options, f"preset {preset!r} of {method}")


def get_method(method: str | AnyMethod | AnyGuide, options: Mapping[str, object] | None = None) -> AnyMethod:
    """Return a method by name ("dap"), by preset ("dap:paper"), or as it is.

    Args:
        method: Name, preset, or object; a guide of :mod:`dap.terms` stands for the method ``guided`` with it alone.
        options: Options by name, which overrule those of the preset; only with a name.

    Raises:
        OptionError: Unknown method, preset or option, options given with an object, or an object that is no method.

    Example:
        >>> get_method("dap:paper", {"scale": 0.5}).scale
        0.5
    """
    if not isinstance(method, str):
        if not isinstance(method, Method | Guide):
            raise OptionError(f"method: expected a name or an object of dap.methods.Method, got {method!r}")
        if options:
            raise OptionError("method_options: they go into the method object, leave them out beside one")
        recipe = method if isinstance(method, Method) else Guided((method,))
        check_method(type(recipe))
        return recipe
    name, _, preset = method.partition(":")
    cls = METHODS[name]
    if preset and not cls.presets:
        raise OptionError(f"method {name!r} has no presets, got {method!r}: leave {':' + preset!r} out")
    if preset:
        check_choice(f"preset of method {name!r}", preset, cls.presets)
    return from_options(cls, {**cls.presets.get(preset, {}), **(options or {})}, f"method {name!r}")


def _discover() -> None:
    """Register the methods of installed packages; name a broken one in a warning and go on."""
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        try:
            register_method(entry.load())
        except Exception as error:  # code of other packages, imported here: anything may go wrong in it
            logger.warning("entry point %r (%s) is left out: %s", entry.name, entry.value, error)


METHODS: Registry[type[AnyMethod]] = Registry("method", _discover)
