"""Results as text: columns of equal width, tables in HTML, and JSON without numbers that JSON has no word for."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence

__all__ = ["columns", "html_table", "json_text", "without_nan"]


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


def html_table(lines: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table in HTML, as notebooks show it.

    Args:
        lines: The cells of each line, as many in each; the first line is the head.
        caption: Text above the table.

    Example:
        >>> html_table([["set", "n"], ["a<b", "10"]])
        '<table><thead><tr><th>set</th><th>n</th></tr></thead><tbody><tr><td>a&lt;b</td><td>10</td></tr></tbody></table>'
    """
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    head, *body = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) for tag, line in _tagged(lines)]
    rows = "".join(f"<tr>{row}</tr>" for row in body)
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _tagged(lines: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    return [("td" if number else "th", line) for number, line in enumerate(lines)]


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
