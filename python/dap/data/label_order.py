"""``class_map=`` of :func:`dap.load`: the label order of a distilled set, where it is not that of its sorted folders.

Authors of a set may publish a list of its classes: ImageNet's wnids in their own order, or the class names of folders
``00000``, ``00001``, … The label of a class is then its position in that list.

How classes are matched to the labels of a *prior* is another matter: see :mod:`dap.data.classmap`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from dap.data.class_list import class_list
from dap.data.names import some
from dap.data.source import Source
from dap.errors import ClassMapError, FormatError

__all__ = ["LabelOrder", "class_order", "reorder_labels"]

LabelOrder: TypeAlias = Sequence[str] | Mapping[str, int] | Mapping[int, str] | str | Path


def reorder_labels(source: Source, class_map: LabelOrder) -> Source:
    """The same images with the labels that ``class_map`` gives their classes.

    Args:
        source: Labelled images.
        class_map: Class names in the order of their labels; or the label, 0, 1, …, of each name; or the name of each
            label; or a file with one of the three as JSON, or with one name a line. It may have classes without images.
            If it has none of the source's class names and all of those are numbers, they are the labels.

    Raises:
        ClassMapError: A class of the source is not in the map, or the map does not give each name its own label.
        FormatError: The file has another form.

    Example:
        >>> import dap
        >>> reorder_labels(dap.open_source("fashion-mini", classes=["Dress", "Bag"]), ["Bag", "Dress"]).class_names
        ('Bag', 'Dress')
    """
    names = class_order(class_map)
    label_of: Mapping[str, int] = {name: label for label, name in enumerate(names)}
    if not label_of.keys() & set(source.class_names) and all(name.isdecimal() for name in source.class_names):
        label_of = {name: int(name) for name in source.class_names if int(name) < len(names)}
    if missing := [name for name in source.class_names if name not in label_of]:
        raise ClassMapError(
            f"{source.name}: the class map has {len(names)} names ({some(names)}), but not {some(missing)}; add them"
        )
    labels = np.array([label_of[name] for name in source.class_names], np.int64)
    if len(set(labels.tolist())) < len(labels):
        raise ClassMapError(f"{source.name}: two of the folders {some(source.class_names)} are the same number")
    return replace(
        source,
        class_names=tuple(names),
        source_ids=tuple(names),
        labels=labels[source.labels],
        digest=None,
        digest_of=None,
    )


def class_order(class_map: LabelOrder) -> list[str]:
    """Return the names of classes in the order of their labels.

    Args:
        class_map: As for :func:`reorder_labels`.

    Raises:
        ClassMapError: It does not give each label its own name.
        FormatError: The file has another form.
    """
    return _names(_read(Path(class_map)) if isinstance(class_map, str | Path) else class_map)


def _read(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows begin a file with a byte order mark
        return (
            json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines() if line.strip()]
        )
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: expected a class map, JSON or a name a line ({error})") from error
    except OSError as error:
        raise ClassMapError(f"{path}: expected a file with a class map ({error.strerror})") from error


def _names(class_map: object) -> list[str]:
    """The names in the order of their labels."""
    try:
        names = class_list(class_map)
    except ValueError as error:
        raise ClassMapError(
            f"class map: {error}; give names, the label of each name, or the name of each label"
        ) from error
    if len(set(names)) < len(names):
        raise ClassMapError(f"class map: expected different names, got {some(sorted(names))}")
    return names
