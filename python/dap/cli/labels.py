"""``--label CLASS=LABEL``, which several commands take."""

from __future__ import annotations

from collections.abc import Sequence

from dap.errors import OptionError

__all__ = ["parse_labels"]


def parse_labels(texts: Sequence[str]) -> dict[str, str | int | None]:
    """The prior's label by class; digits are an id, and nothing is the null condition.

    Raises:
        OptionError: There is no ``=``, or a class comes twice.

    Example:
        >>> parse_labels(["my cat=tabby", "lorry=867"])
        {'my cat': 'tabby', 'lorry': 867}
        >>> parse_labels(["anorak="])
        {'anorak': None}
    """
    found: dict[str, str | int | None] = {}
    for text in texts:
        name, equals, label = text.rpartition("=")
        if not equals or not name or name in found:
            raise OptionError(f"--label: expected CLASS=LABEL, each class once, got {text!r}")
        found[name] = int(label) if label.isdecimal() else label or None
    return found
