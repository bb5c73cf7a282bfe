"""Options as frozen dataclasses: from names and text, to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from dap.errors import OptionError
from dap.registry import unknown_name

__all__ = ["from_options", "parse_assignments", "to_json"]

T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """A dataclass as JSON-able values, with its ``name`` (a class attribute) first.

    Example:
        >>> from dap.kernels import RBF
        >>> to_json(RBF(bandwidth=2.0))
        {'name': 'rbf', 'bandwidth': 2.0}
    """
    values: dict[str, Any] = {"name": config.name}
    for field in dataclasses.fields(config):
        values[field.name] = _plain(getattr(config, field.name))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return to_json(value) if dataclasses.is_dataclass(value) else value


def from_options(cls: type[T], options: Mapping[str, Any], kind: str) -> T:
    """Builds a dataclass from named options; a name that it does not have is refused with the nearest that it has.

    Raises:
        OptionError: An unknown name, or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, value in options.items():
        if name not in fields:
            if not fields:
                raise OptionError(f"{kind} has no options, got {name!r}")
            raise unknown_name(f"option of {kind}", name, fields)
        default = fields[name].default
        number_for_float = type(default) is float and type(value) is int
        typed = isinstance(default, bool | int | float) or fields[name].type == "str"
        if typed and type(value) is not type(default) and not number_for_float:
            raise OptionError(f"{kind}: {name} takes {type(default).__name__}, got {value!r}")
    return cls(**options)


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Any]:
    """``("scale=0.5", "kernel=rbf")`` as a dict: each value is read as JSON, or else taken as text.

    Raises:
        OptionError: An entry has no "=".
    """
    options: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise OptionError(f"expected name=value, got {assignment!r}")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options
