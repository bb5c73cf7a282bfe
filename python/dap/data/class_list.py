"""Lists of classes as others write them: ``classes.json``, ``id2label``, ``class_to_idx``, a list of names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Integral

from dap.data.names import some

__all__ = ["NUMBER", "class_list"]

NUMBER = re.compile(r"0|[1-9][0-9]*")  # other digits, such as 007, are a name


def class_list(value: object) -> list[str]:
    """Return class names in the order of their labels.

    Args:
        value: Names in the order of their labels; or names by label, where a label is a whole number or its digits; or
            labels by name.

    Raises:
        ValueError: It has another form, or labels are not 0, 1, 2, … with each once.

    Example:
        >>> class_list(["cat", "dog"]), class_list({"1": "dog", "0": "cat"}), class_list({"dog": 1, "cat": 0})
        (['cat', 'dog'], ['cat', 'dog'], ['cat', 'dog'])
    """
    if isinstance(value, Mapping):
        by_label = all(isinstance(name, str) for name in value.values())
        pairs = [(_label(key), entry) if by_label else (_label(entry), key) for key, entry in value.items()]
        if sorted(label for label, _ in pairs) != list(range(len(pairs))):
            labels = some([label for label, _ in pairs])
            raise ValueError(f"expected labels 0 to {len(pairs) - 1}, each once, got {labels}")
        value = [name for _, name in sorted(pairs)]
    names = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected a text name for each label from 0 on, got {some(names or [value])}")
    return names


def _label(value: object) -> int:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return int(value)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"expected a label 0, 1, 2, … for each name, got {value!r}")
    return int(value)
