"""Options: frozen dataclasses from names and text, to JSON and back, and the checks of a single value."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import operator
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from dap.errors import OptionError
from dap.registry import unknown_name_error

__all__ = [
    "MAX_SEED", "check_choice", "check_number", "check_path", "check_seed", "check_whole", "from_options",
    "parse_assignments", "plain", "to_json",
]  # fmt: skip

T = TypeVar("T")
MAX_SEED = 2**63 - 1


def plain(value: T) -> T:
    """Return an option with Python's own numbers in place of NumPy's: of a value, a list, a tuple, or a dataclass.

    Example:
        >>> import numpy as np
        >>> plain((np.int64(3), np.float32(0.5)))
        (3, 0.5)
    """
    if isinstance(value, bool | int | str) or value is None or type(value) is float:
        return value
    if isinstance(value, numbers.Integral):
        return int(value)  # type: ignore[return-value]
    if isinstance(value, numbers.Real):
        return float(value)  # type: ignore[return-value]
    if type(value) in (list, tuple):
        items = [plain(item) for item in value]  # type: ignore[attr-defined]
        return value if all(map(operator.is_, items, value)) else type(value)(items)  # type: ignore[call-arg,call-overload]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        options = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        changed = {name: plain(option) for name, option in options.items() if plain(option) is not option}
        return dataclasses.replace(value, **changed) if changed else value
    return value


def check_whole(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """Return ``value`` as an int; raise unless it is a whole number (no bool) between ``least`` and ``most``.

    Raises:
        OptionError: It names the option, the range and the value.

    Example:
        >>> check_whole("ipc", 0)
        Traceback (most recent call last):
        dap.errors.OptionError: ipc: expected a whole number of at least 1, got 0
    """
    number = int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None
    if number is None or number < least or (most is not None and number > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise OptionError(f"{name}: expected a whole number {span}, got {value!r}")
    return number


def check_seed(value: object, name: str = "seed") -> int:
    """Return a root seed as an int; raise OptionError unless it is a whole number from 0 to 2**63 - 1."""
    return check_whole(name, value, 0, MAX_SEED)


def check_path(name: str, value: object) -> Path:
    """Return the path of a file or folder that a user names; a leading ``~`` stands for the user's home.

    Raises:
        OptionError: It is no text or path, or there is no home.

    Example:
        >>> check_path("out", 3)
        Traceback (most recent call last):
        dap.errors.OptionError: out: expected the path of a file or folder, got 3
    """
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise OptionError(f"{name}: expected the path of a file or folder, got {value!r}")
    try:
        return Path(value).expanduser()
    except (RuntimeError, TypeError) as error:  # TypeError: a path of bytes
        raise OptionError(f"{name}: {value!r} has no meaning here ({error}): write the whole path") from error


def check_number(
    name: str,
    value: object,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raise unless ``value`` is a finite number (no bool) inside the bounds.

    Args:
        name: The option, for the error.
        value: Its value.
        least: The smallest value that is allowed.
        most: The largest value that is allowed.
        above: The value has to be larger than this.
        below: The value has to be smaller than this.

    Raises:
        OptionError: It names the option, the bounds and the value.

    Example:
        >>> check_number("momentum", 1.0, 0, below=1)
        Traceback (most recent call last):
        dap.errors.OptionError: momentum: expected a number of at least 0 and below 1, got 1.0
    """
    number = plain(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not isinstance(number, int | float):
        number = math.nan
    low = (least is not None and number < least) or (above is not None and number <= above)
    high = (most is not None and number > most) or (below is not None and number >= below)
    if not math.isfinite(number) or low or high:
        if least is not None and most is not None:
            bounds = [f"from {least:g} to {most:g}"]
        else:
            bounds = [f"of at least {least:g}"] if least is not None else []
            bounds += [f"above {above:g}"] if above is not None else []
            bounds += [f"of at most {most:g}"] if most is not None else []
        bounds += [f"below {below:g}"] if below is not None else []
        raise OptionError(f"{name}: expected a number {' and '.join(bounds)}".rstrip() + f", got {value!r}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raises unless ``value`` is one of ``choices``.

    Raises:
        OptionError: It lists the choices and offers the nearest.

    Example:
        >>> check_choice("at", "epsilon", ("eps", "x0", "sample"))
        Traceback (most recent call last):
        dap.errors.OptionError: unknown at 'epsilon'; did you mean 'eps'? Known: eps, sample, x0
    """
    if value not in tuple(choices):
        raise unknown_name_error(name, value, choices)


class NamedOptions(Protocol):
    """A dataclass with a name: a method, guide or kernel."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def name(self) -> str:
        """The name in the registry."""


def to_json(config: NamedOptions) -> dict[str, object]:
    """Return the fields of a dataclass as JSON-able values, after its ``name``.

    Example:
        >>> from dap.kernels import RBF
        >>> to_json(RBF(bandwidth=2.0))
        {'name': 'rbf', 'bandwidth': 2.0}
    """
    values: dict[str, object] = {"name": config.name}
    for field in dataclasses.fields(config):
        values[field.name] = _jsonable(getattr(config, field.name))
    return values


def _jsonable(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return to_json(value) if dataclasses.is_dataclass(value) else plain(value)  # type: ignore[arg-type]


def from_options(cls: type[T], options: Mapping[str, object], kind: str) -> T:
    """Build a dataclass from named options.

    Args:
        cls: The dataclass.
        options: Values by the name of the field.
        kind: What it is called in errors, such as "method 'dap'".

    Raises:
        OptionError: A name that the dataclass does not have (the error offers the nearest), or a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    options = {name: plain(value) for name, value in options.items()}
    for name, value in options.items():
        if name not in fields:
            if not fields:
                raise OptionError(f"{kind} has no options, got {name!r}")
            raise unknown_name_error(f"option of {kind}", name, fields)
        default = fields[name].default
        number_for_float = type(default) is float and type(value) is int
        typed = isinstance(default, bool | int | float) or fields[name].type == "str"
        if typed and type(value) is not type(default) and not number_for_float:
            raise OptionError(f"{kind}: {name} takes {type(default).__name__}, got {value!r}")
    return cls(**options)


def parse_assignments(assignments: tuple[str, ...], texts: Collection[str] = ()) -> dict[str, object]:
    """Return ``("scale=0.5", "kernel=rbf")`` as a dict: each value is read as JSON, or else taken as text.

    Args:
        assignments: Entries ``name=value``.
        texts: Names of options that are text: of these, only null and text in JSON's quotes are read as JSON, because
            ``{}`` and ``5`` are text too.

    Raises:
        OptionError: An entry has no "=".

    Example:
        >>> parse_assignments(("template={}", "guidance=5"), texts=("template",))
        {'template': '{}', 'guidance': 5}
    """
    options: dict[str, object] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise OptionError(f"expected name=value, got {assignment!r}")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
        if name in texts and not isinstance(options[name], str | None):
            options[name] = text
    return options
