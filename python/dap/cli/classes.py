"""The options about classes: ``--classes``, ``--label``, ``--label-column``, and ``--ipc``, which may name classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from dap.config import check_choice, check_whole
from dap.data.class_list import NUMBER
from dap.errors import OptionError

__all__ = [
    "choose_classes", "choose_ipc", "class_names_option", "classes_option", "ipc_option", "label_column_option",
    "label_option", "parse_ipc", "parse_labels",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])

IPC = 10  # the default of --ipc


def classes_option(purpose: str, default: str = "all") -> Callable[[F], F]:
    """Return the decorator that adds ``--classes`` to a command; :func:`choose_classes` reads its values."""
    text = f"Classes to {purpose}, separated by commas; repeatable; {default} if left out."
    return click.option("--classes", multiple=True, metavar="NAME,NAME", help=text)


def ipc_option(command: F) -> F:
    """Add ``--ipc`` to a command; it gets the numbers of :func:`parse_ipc`."""
    text = f"Images per class; CLASS=N for a class with another number, repeatable; {IPC} if left out."

    def read(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, int]:
        return parse_ipc(texts)

    return click.option("--ipc", multiple=True, metavar="N|CLASS=N", callback=read, help=text)(command)


def label_option(command: F) -> F:
    """Add ``--label`` to a command; :func:`parse_labels` reads its values."""
    text = "Sample a class whose name the prior does not know under this label, or without one (CLASS=); repeatable."
    return click.option("--label", "labels", multiple=True, metavar="CLASS=LABEL", help=text)(command)


def label_column_option(command: F) -> F:
    """Add ``--label-column`` to a command."""
    text = "Column of labels in Parquet files or a dataset of the hub, where several can be meant."
    return click.option("--label-column", metavar="NAME", help=text)(command)


def class_names_option(command: F) -> F:
    """Add ``--class-names`` to a command: the names of a set's classes, which may only have numbers."""
    text = "File with the name of each class of FOLDER in the order of its labels, one a line or JSON."
    return click.option("--class-names", type=click.Path(path_type=Path), help=text)(command)


def choose_classes(texts: Sequence[str], known: Collection[str]) -> list[str] | None:
    """The classes that ``--classes`` names; None without the option.

    Each text is a list of names with commas between them. A name that has commas itself is found as a whole: of several
    readings the one with the longest name is taken, from the left. Blanks around a name are ignored.

    Args:
        texts: The values of the option.
        known: Names of all classes of the source.

    Raises:
        OptionError: A name is unknown or empty.

    Example:
        >>> choose_classes(["dog, tench, Tinca tinca"], ["tench, Tinca tinca", "dog", "cat"])
        ['dog', 'tench, Tinca tinca']
    """
    names: list[str] = []
    for text in texts:
        parts = text.split(",")
        while parts:
            readings = [(end, ",".join(parts[:end])) for end in range(len(parts), 0, -1)]
            matches = [(end, name) for end, raw in readings for name in (raw, raw.strip()) if name in known]
            end, name = matches[0] if matches else (1, parts[0].strip())
            if not matches and not name:
                raise OptionError(f"--classes: expected names with commas between them, got {text!r}")
            check_choice("class", name, known)
            names.append(name)
            parts = parts[end:]
    return names or None


def parse_labels(texts: Sequence[str]) -> dict[str, str | int | None]:
    """The prior's label of each class: digits without leading zeros are a number, no text is the null condition.

    Other text is a name.

    Raises:
        OptionError: There is no ``=``, or a class is given twice.

    Example:
        >>> parse_labels(["my cat=tabby", "lorry=867", "agent=007"])
        {'my cat': 'tabby', 'lorry': 867, 'agent': '007'}
        >>> parse_labels(["anorak="])
        {'anorak': None}
    """
    labels: dict[str, str | int | None] = {}
    for text in texts:
        name, equals, label = text.rpartition("=")
        if not equals or not name or name in labels:
            raise OptionError(f"--label: expected CLASS=LABEL, each class once, got {text!r}")
        labels[name] = int(label) if NUMBER.fullmatch(label) else label or None
    return labels


def parse_ipc(texts: Sequence[str]) -> dict[str, int]:
    """The numbers of images that ``--ipc`` gives: by class, and under "" for all others.

    Raises:
        OptionError: There is no whole number of at least 1, or something is given twice.

    Example:
        >>> parse_ipc(["5", "dog=3"])
        {'': 5, 'dog': 3}
    """
    numbers: dict[str, int] = {}
    for text in texts:
        name, _, digits = text.rpartition("=")
        if name in numbers:
            raise OptionError(f"--ipc: expected a number, and CLASS=NUMBER, each class once, got {text!r}")
        numbers[name] = check_whole("--ipc", int(digits) if re.fullmatch(r"-?\d{1,18}", digits) else text)
    return numbers


def choose_ipc(numbers: Mapping[str, int], names: Sequence[str]) -> int | dict[str, int]:
    """The number of images per class, or of each class if ``--ipc`` names some.

    Args:
        numbers: Those of :func:`parse_ipc`.
        names: Names of the classes of the run.

    Raises:
        OptionError: A class is unknown.

    Example:
        >>> choose_ipc({"": 5}, ["cat", "dog"]), choose_ipc({"dog": 3}, ["cat", "dog"])
        (5, {'cat': 10, 'dog': 3})
    """
    for name in numbers.keys() - {""}:
        check_choice("class in --ipc", name, names)
    others = numbers.get("", IPC)
    return {name: numbers.get(name, others) for name in names} if numbers.keys() - {""} else others
