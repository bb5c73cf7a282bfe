"""Reads JSON files that somebody else may have changed: bounded in size, and checked field by field against a shape.

A shape is a function of a field's name and value that raises :class:`Mismatch`. The format of a file is one shape, put
together from the ones below::

    RECORD = fields({"schema": choice(1), "files": mapping(SHA256, keys=BELOW)}, optional={"seconds": mapping(NUMBER)})
    record = read_json(folder / "record.json", RECORD)
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from dap.errors import FormatError

__all__ = [
    "ANYTHING", "BELOW", "FLAG", "MAX_JSON", "NOTHING", "NUMBER", "SHA256", "TEXT", "Mismatch", "Shape", "check_shape",
    "choice", "either", "fields", "items", "mapping", "matching", "parse_json", "read_json", "read_regular", "whole",
]  # fmt: skip

MAX_JSON = 2**28  # bytes; the manifest of two million images
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # not every system has both
NAME_LENGTH, VALUE_LENGTH = 200, 60  # characters that an error shows

Shape: TypeAlias = Callable[[str, object], None]


class Mismatch(ValueError):
    """A value that is not what its shape says; the message names the field, what was expected, and what came."""

    def __init__(self, name: str, expected: str, value: object) -> None:
        field = f"{name[:NAME_LENGTH]}: " if name else ""
        super().__init__(f"{field}expected {expected}, got {_short(value)}")


def read_json(path: Path, shape: Shape, *, advice: str = "", most: int = MAX_JSON) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        shape: What it has to hold.
        advice: What to do about a file that holds something else, for the error.
        most: The largest size in bytes.

    Raises:
        FormatError: It is no regular file, too large, not JSON, or of another shape; names the file and the field.
        FileNotFoundError: It is not there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "x.json")
        ...     _ = file.write_text('{"steps": "many"}')
        ...     read_json(file, fields({"steps": whole(1)}))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dap.errors.FormatError: .../x.json: steps: expected a whole number of at least 1, got "many"
    """
    value = parse_json(path, read_regular(path, most), advice=advice)
    check_shape(path, value, shape, advice=advice)
    return value


def read_regular(path: Path, most: int = MAX_JSON, *, start: int = 0) -> bytes:
    """Return the bytes of a regular file from ``start`` on; a pipe or a device is not waited for.

    Raises:
        FormatError: It is something else, larger than ``most`` bytes, or cannot be read.
        FileNotFoundError: It is not there.
    """
    try:
        descriptor = os.open(path, READ)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"{path}: expected a file, got a folder, a pipe or a device")
            if status.st_size > most:
                raise FormatError(f"{path}: expected at most {most} bytes, got {status.st_size}")
            file.seek(start)
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error


def parse_json(path: str | Path, content: str | bytes, *, advice: str = "") -> Any:
    """Return the value of JSON that stands in ``path``.

    Raises:
        FormatError: It is not JSON, or nested too deeply.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: expected JSON, got something else ({error}){_then(advice)}") from error


def check_shape(path: str | Path, value: object, shape: Shape, *, advice: str = "") -> None:
    """Raise FormatError, with the file and the field, unless a value has this shape."""
    try:
        shape("", value)
    except Mismatch as error:
        raise FormatError(f"{path}: {error}{_then(advice)}") from error


def kind(expected: str, fits: Callable[[Any], bool]) -> Shape:
    """Return the shape of the values that ``fits`` accepts."""

    def shape(name: str, value: object) -> None:
        if not fits(value):
            raise Mismatch(name, expected, value)

    return shape


ANYTHING = kind("anything", lambda value: True)
NOTHING = kind("null", lambda value: value is None)
TEXT = kind("text", lambda value: isinstance(value, str))
FLAG = kind("true or false", lambda value: isinstance(value, bool))
LARGEST = sys.float_info.max
NUMBER = kind("a finite number", lambda value: type(value) in (int, float) and -LARGEST <= value <= LARGEST)
BELOW = kind(
    "a path below the folder",
    lambda value: (
        isinstance(value, str) and not re.match(r"[/\\]|[A-Za-z]:|\Z", value) and ".." not in re.split(r"[/\\]", value)
    ),
)


def whole(least: int = 0, most: int = 2**63 - 1) -> Shape:
    """Return the shape of a whole number from ``least`` to ``most``."""
    span = f"of at least {least}" if most == 2**63 - 1 else f"from {least} to {most}"
    return kind(f"a whole number {span}", lambda value: type(value) is int and least <= value <= most)


def choice(*values: str | int) -> Shape:
    """Return the shape of one of some values."""
    return kind(
        " or ".join(map(repr, values)), lambda value: any(type(v) is type(value) and v == value for v in values)
    )


def matching(pattern: str, expected: str) -> Shape:
    """Return the shape of text that a pattern matches as a whole."""
    matches = re.compile(pattern).fullmatch

    def shape(name: str, value: object) -> None:  # not by kind(): an index has thousands of hashes
        if not isinstance(value, str) or matches(value) is None:
            raise Mismatch(name, expected, value)

    return shape


SHA256 = matching("[0-9a-f]{64}", "a hash of 64 hexadecimal digits")


def either(*shapes: Shape) -> Shape:
    """Return the shape of values that have one of several shapes; the error is that of the last one."""

    def shape(name: str, value: object) -> None:
        for option in shapes[:-1]:
            try:
                return option(name, value)
            except Mismatch:
                continue
        return shapes[-1](name, value)

    return shape


def items(item: Shape, least: int = 0) -> Shape:
    """Return the shape of a list of at least ``least`` values of one shape."""

    def shape(name: str, value: object) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise Mismatch(name, f"a list of at least {least}" if least else "a list", value)
        for number, entry in enumerate(value):
            try:
                item(name, entry)
            except Mismatch:  # the name is only put together if an error needs it
                item(f"{name}[{number}]", entry)

    return shape


def mapping(item: Shape, keys: Shape = TEXT) -> Shape:
    """Return the shape of an object whose values have one shape, and whose names have another."""

    def shape(name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise Mismatch(name, "an object", value)
        for key, entry in value.items():
            keys(f"{name}: a name in it", key)
            item(f"{name}.{key}" if name else key, entry)

    return shape


def fields(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None, *, more: bool = False) -> Shape:
    """Return the shape of an object with these fields; ``more`` allows others as well."""
    known = {**(optional or {}), **required}

    def shape(name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise Mismatch(name, "an object", value)
        if missing := required.keys() - value.keys():
            raise Mismatch(name, f"an object with {', '.join(required)}", _Lacking(sorted(missing)))
        if not more and (unknown := value.keys() - known.keys()):
            raise Mismatch(name, f"an object with nothing but {', '.join(known)}", sorted(unknown))
        for key in known.keys() & value.keys():
            try:
                known[key](name, value[key])
            except Mismatch:  # as above
                known[key](f"{name}.{key}" if name else key, value[key])

    return shape


class _Lacking(list[str]):
    """The names of fields that are missing."""


def _short(value: object) -> str:
    if isinstance(value, _Lacking):
        return f"one without {', '.join(value)}"[:VALUE_LENGTH]
    if isinstance(value, dict | list) and len(value) > VALUE_LENGTH:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= VALUE_LENGTH else text[: VALUE_LENGTH - 3] + "..."


def _then(advice: str) -> str:
    return f"; {advice}" if advice else ""
