"""Class maps: which label a folder of images has, where its place among the sorted folders does not say so.

The label of a class is its place in a list that the authors of a set give with it: ImageNet's wnids in an order of
their own, or the names that belong to folders ``00000``, ``00001``, …
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dap.data.names import some
from dap.data.source import Source
from dap.errors import ClassMapError, FormatError

__all__ = ["ClassMap", "reorder_labels"]

ClassMap: TypeAlias = Sequence[str] | Mapping[str, int] | str | Path


def reorder_labels(source: Source, class_map: ClassMap) -> Source:
    """The same images under the labels of a class map; classes of the map that have no images keep their labels.

    Args:
        source: Labelled images.
        class_map: Class names in the order of their labels; or the label of each name, together 0, 1, …; or a file with
            one of the two as JSON, or with one name a line. Where
            the map has none of the source's names and all of those are numbers, they are taken for labels.

    Raises:
        ClassMapError: A class of the source is not in the map, or the map is not one label per name.
        FormatError: The file is not of that form.

    Example:
        >>> from dap.data.open import open_source
        >>> reorder_labels(open_source("fashion-mini", classes=["Dress", "Bag"]), ["Bag", "Dress"]).class_names
        ('Bag', 'Dress')
    """
    names = _names(_read(Path(class_map)) if isinstance(class_map, str | Path) else class_map)
    places: Mapping[str, int] = {name: label for label, name in enumerate(names)}
    if not places.keys() & set(source.class_names) and all(name.isdecimal() for name in source.class_names):
        places = {name: int(name) for name in source.class_names if int(name) < len(names)}
    if missing := [name for name in source.class_names if name not in places]:
        raise ClassMapError(
            f"{source.name}: the class map has {len(names)} names ({some(names)}), but not {some(missing)}; add them"
        )
    labels = np.array([places[name] for name in source.class_names], np.int64)
    if len(set(labels.tolist())) < len(labels):
        raise ClassMapError(f"{source.name}: two of the folders {some(source.class_names)} are the same number")
    return replace(source, class_names=tuple(names), source_ids=tuple(names), labels=labels[source.labels], digest=None)


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return (
            json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines() if line.strip()]
        )
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: expected a class map, JSON or a name a line ({error})") from error
    except OSError as error:
        raise ClassMapError(f"{path}: expected a file with a class map ({error.strerror})") from error


def _names(class_map: Any) -> list[str]:
    """The names in the order of their labels."""
    if isinstance(class_map, Mapping):
        if sorted(map(repr, class_map.values())) != sorted(map(repr, range(len(class_map)))):
            raise ClassMapError(
                f"class map: expected labels 0 to {len(class_map) - 1}, each once, got {some([*class_map.values()])}"
            )
        names = sorted(class_map, key=class_map.__getitem__)
    else:
        names = [*class_map] if isinstance(class_map, Sequence) else []
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ClassMapError(
            f"class map: expected different names, or the label of each, got {some(names or [class_map])}"
        )
    return names
