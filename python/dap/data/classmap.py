"""Which of the prior's labels stands for which class of the source.

A class's name, the source's id of it and the prior's label are three different things, and a wrong match is silent: it
makes good images of something else. So there is one explicit map, kept in the manifest, and no guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from dap.data.names import escape, some
from dap.data.source import Source
from dap.errors import ClassMapError, FormatError, OptionError
from dap.registry import unknown_name_error
from dap.rng import derive_seed

__all__ = [
    "NULL_LABELS",
    "ClassEntry",
    "LabelMap",
    "build_class_map",
    "find_labels",
    "from_json",
    "null_label",
    "to_json",
]

LabelMap: TypeAlias = Mapping[str, str | int | None]

WNID = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000
NULL_LABELS = 1 << 30  # from here on labels stand for classes that a prior is asked for by its null condition


def null_label(name: str) -> int:
    """The label, of 31 bits, of a class that has none of the prior's; the same for a name whatever others there are."""
    return NULL_LABELS + (derive_seed("null", name) >> 34)


@dataclass(frozen=True)
class ClassEntry:
    """One class under its four names.

    Attributes:
        name: The class's name.
        source_id: What the source calls it: a folder name or a dataset's label.
        prior_label: The prior's label id; None if no prior is needed.
        folder: The folder that its images are written to.
    """

    name: str
    source_id: int | str
    prior_label: int | None
    folder: str

    @property
    def label(self) -> int:
        """The prior's label; 0 where the run has no prior."""
        return self.prior_label or 0


def build_class_map(
    source: Source, prior_labels: Mapping[str, int] | None, label_map: LabelMap | None = None
) -> tuple[ClassEntry, ...]:
    """Finds the prior's label of every class of a source.

    A class is known to the prior by its exact name; or as an ImageNet wnid ("n01440764"), if the prior knows exactly
    the labels 0 to 999: then the label is the wnid's position among the 1,000 sorted synsets; or by its name without
    regard to case, if that leads to one label; or by comma-separated synonyms ("tench, Tinca tinca") that do.

    Args:
        source: The source, whose classes are kept in order.
        prior_labels: Label id by name, several names to an id allowed; None: the method needs no prior.
        label_map: By the name of a class, name or id of the prior's label that stands for it; comes before all else.
            None: no label does, and the prior is asked for anything, by its null condition.

    Raises:
        ClassMapError: The prior does not know a class, or two classes lead to the same label.
        OptionError: ``label_map`` has a class or a label that there is not.

    Example:
        >>> from dap.data.open import open_source
        >>> build_class_map(open_source("fashion-mini", classes=["T-shirt/top"]), {"t-shirt/top": 0})
        (ClassEntry(name='T-shirt/top', source_id=0, prior_label=0, folder='T-shirt%2Ftop'),)
    """
    found: Mapping[str, int | None] = dict.fromkeys(source.class_names)
    if prior_labels is not None:
        found = find_labels(source.class_names, {**prior_labels, **_mapped(source, prior_labels, label_map or {})})
        _check(source.name, found, prior_labels)
    return tuple(
        ClassEntry(name, source_id, found[name], escape(name))
        for name, source_id in zip(source.class_names, source.source_ids, strict=True)
    )


def _mapped(source: Source, prior_labels: Mapping[str, int], label_map: LabelMap) -> dict[str, int]:
    found = {}
    for name, label in label_map.items():
        if name not in source.class_names:
            raise unknown_name_error("class in label_map", name, source.class_names)
        if label is None:
            found[name] = null_label(name)
            continue
        if isinstance(label, str) and label not in prior_labels:
            raise unknown_name_error(f"label for class {name!r} in label_map", label, prior_labels)
        found[name] = prior_labels[label] if isinstance(label, str) else label
        if found[name] not in prior_labels.values():
            raise OptionError(f"label_map: class {name!r}: the prior has no label {label!r}")
    return found


def find_labels(names: Sequence[str], prior_labels: Mapping[str, int]) -> dict[str, int | None]:
    """The prior's label of each class, as :func:`build_class_map` finds it; None where the prior does not know it."""
    folded: dict[str, set[int]] = {}
    for name, label in prior_labels.items():
        folded.setdefault(name.casefold(), set()).add(label)
    wnids = _imagenet_wnids(names, prior_labels)

    def label_of(name: str) -> int | None:
        if name in prior_labels:
            return prior_labels[name]
        if name in wnids:
            return wnids[name]
        whole = folded.get(name.casefold())
        parts = set().union(*(folded.get(part.strip().casefold(), ()) for part in name.split(",")))
        labels = whole or parts
        return next(iter(labels)) if len(labels) == 1 else None

    return {name: label_of(name) for name in names}


def _imagenet_wnids(names: Sequence[str], prior_labels: Mapping[str, int]) -> dict[str, int]:
    if set(prior_labels.values()) != set(range(IMAGENET_CLASSES)) or not any(map(WNID.fullmatch, names)):
        return {}
    from timm.data.imagenet_info import ImageNetInfo  # imports torch: only where there are wnids to look up

    info: Any = ImageNetInfo("imagenet-1k")
    return {wnid: label for label, wnid in enumerate(sorted(info.label_names()))}


def _check(source: str, found: Mapping[str, int | None], prior_labels: Mapping[str, int]) -> None:
    unknown = [name for name, label in found.items() if label is None]
    if unknown:
        raise ClassMapError(
            f"{source}: the prior does not know {len(unknown)} of {len(found)} classes: {some(unknown)}. "
            f"It knows {some(list(prior_labels))}. Pick classes that it knows (classes=), say which of its labels "
            "stands for a class (label_map=; None for its null condition), teach it the class (dap prior adapt), "
            "rename the source's folders to its label names or to ImageNet wnids, or use another prior"
        )
    by_label: dict[int | None, list[str]] = {}
    for name, label in found.items():
        by_label.setdefault(label, []).append(name)
    shared = {label: names for label, names in by_label.items() if len(names) > 1}
    if shared:
        pairs = "; ".join(f"{some(names)} to label {label}" for label, names in list(shared.items())[:5])
        raise ClassMapError(
            f"{source}: different classes lead to the same label of the prior: {pairs}; keep one of each"
        )


def to_json(entries: Sequence[ClassEntry]) -> list[dict[str, Any]]:
    """The class map as the list of objects that the manifest holds."""
    return [asdict(entry) for entry in entries]


def from_json(values: object) -> tuple[ClassEntry, ...]:
    """The class map of a manifest, checked: a folder must be the one that its class name gives.

    Raises:
        FormatError: Not a list of the objects that :func:`to_json` writes.
    """
    try:
        if not isinstance(values, list):
            raise TypeError(f"expected a list, got {type(values).__name__}")
        return tuple(_entry(**value) for value in values)
    except TypeError as error:
        raise FormatError(f"damaged class map: {error}") from error


def _entry(name: str, source_id: int | str, prior_label: int | None, folder: str) -> ClassEntry:
    if not (isinstance(name, str) and isinstance(source_id, int | str) and isinstance(prior_label, int | None)):
        raise TypeError(f"wrong types in {(name, source_id, prior_label, folder)}")
    if folder != escape(name):
        raise TypeError(f"folder {folder!r} is not that of class {name!r}, {escape(name)!r}")
    return ClassEntry(name, source_id, prior_label, folder)
