"""``--label CLASS=LABEL``, which several commands take."""

from __future__ import annotations

from collections.abc import Sequence

from dap.errors import OptionError

__all__ = ["parse_labels"]


def parse_labels(texts: Sequence[str]) -> dict[str, str | int]:
    """The prior's label by class; digits are an id.

    Raises:
        OptionError: There is no ``=``, or a class comes twice.

    Example:
        >>> parse_labels(["my cat=tabby", "lorry=867"])
        {'my cat': 'tabby', 'lorry': 867}
    """
    found: dict[str, str | int] = {}
    for text in texts:
        name, equals, label = text.rpartition("=")
        if not equals or not label or name in found:
            raise OptionError(f"--label: expected CLASS=LABEL, each class once, got {text!r}")
        found[name] = int(label) if label.isdecimal() else label
    return found
