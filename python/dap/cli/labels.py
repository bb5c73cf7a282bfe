"""The option ``--label CLASS=LABEL`` of several commands."""

from __future__ import annotations

from collections.abc import Sequence

from dap.errors import OptionError

__all__ = ["parse_labels"]


def parse_labels(texts: Sequence[str]) -> dict[str, str | int | None]:
    """The prior's label of each class: digits are a number, other text is a name, no text is the null condition.

    Raises:
        OptionError: There is no ``=``, or a class is given twice.

    Example:
        >>> parse_labels(["my cat=tabby", "lorry=867"])
        {'my cat': 'tabby', 'lorry': 867}
        >>> parse_labels(["anorak="])
        {'anorak': None}
    """
    labels: dict[str, str | int | None] = {}
    for text in texts:
        name, equals, label = text.rpartition("=")
        if not equals or not name or name in labels:
            raise OptionError(f"--label: expected CLASS=LABEL, each class once, got {text!r}")
        labels[name] = int(label) if label.isdecimal() else label or None
    return labels
