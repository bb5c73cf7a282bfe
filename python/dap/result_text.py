"""Results as text: columns of equal width, and JSON without numbers that JSON has no word for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

__all__ = ["columns", "json_text", "without_nan"]


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a plain text table, two blanks between columns.

    Args:
        lines: The cells of each line, as many in each.

    Example:
        >>> columns([["method", "n"], ["dit", "10"]])
        ['method  n', 'dit     10']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def without_nan(value: object) -> object:
    """Return a value of mappings, lists and scalars in JSON's types; numbers that are not finite become None.

    Example:
        >>> without_nan({"mean": 1.0, "errors": (float("nan"), 2)})
        {'mean': 1.0, 'errors': [None, 2]}
    """
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: object) -> str:
    """Return a value as indented JSON; numbers that are not finite become null."""
    return json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
