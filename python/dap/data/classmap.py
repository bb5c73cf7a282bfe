"""The class map of a run: for each class of the source, the label under which the prior knows it.

A class has a name, the source's id, and the prior's label. A wrong match between them goes unnoticed: the prior then
makes good images of something else. So dap never guesses: the map is explicit, and the manifest records it.

The labels of a distilled set that is *loaded* are another matter: see :mod:`dap.data.label_order`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from dap.config import check_choice
from dap.data.names import check_folder_names, escape, some
from dap.data.source import Source
from dap.data.ways_out import argument, ways_out
from dap.errors import ClassMapError, OptionError
from dap.rng import derive_seed
from dap.storage.checked_json import NOTHING, TEXT, check_shape, choice, either, fields, items, whole

__all__ = [
    "CLASS_MAP",
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

NULL_LABELS = 1 << 30  # labels from here on stand for classes that use the prior's null condition


def null_label(name: str) -> int:
    """The label (below 2**31) of a class that uses the null condition; it depends on the class's name alone."""
    return NULL_LABELS + (derive_seed("null", name) >> 34)


@dataclass(frozen=True)
class ClassEntry:
    """One class with its four identifiers.

    Attributes:
        name: The class's name.
        source_id: The source's id of it: a folder name or a dataset's label.
        prior_label: The prior's label; None if the run has no prior.
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

    The first of these that gives a label is used: ``label_map``; the exact name, which may be an ImageNet wnid if the
    prior has ImageNet's 1,000 labels; the name regardless of case; the comma-separated synonyms in the name ("tench,
    Tinca tinca"). The last two must lead to exactly one label.

    Args:
        source: The source, whose classes keep their order.
        prior_labels: The prior's labels by name, where several names may have one label; None: the run has no prior.
        label_map: By the name of a class: the name or number of the prior's label that stands for it, or None for a
            class that uses the prior's null condition.

    Raises:
        ClassMapError: The prior does not know a class, two classes lead to the same label, or a name is too long.
        OptionError: ``label_map`` has an unknown class or label.

    Example:
        >>> import dap
        >>> build_class_map(dap.open_source("fashion-mini", classes=["T-shirt/top"]), {"t-shirt/top": 0})
        (ClassEntry(name='T-shirt/top', source_id=0, prior_label=0, folder='T-shirt%2Ftop'),)
    """
    check_folder_names(source.class_names)
    labels: Mapping[str, int | None] = dict.fromkeys(source.class_names)
    if prior_labels is not None:
        chosen = _chosen_labels(source, prior_labels, label_map or {})
        labels = find_labels(source.class_names, {**prior_labels, **chosen})
        _check_labels(source.name, labels, prior_labels)
    return tuple(
        ClassEntry(name, source_id, labels[name], escape(name))
        for name, source_id in zip(source.class_names, source.source_ids, strict=True)
    )


def _chosen_labels(source: Source, prior_labels: Mapping[str, int], label_map: LabelMap) -> dict[str, int]:
    """The prior's label of each class in ``label_map``."""
    labels = {}
    for name, label in label_map.items():
        check_choice("class in label_map", name, source.class_names)
        if label is None:
            labels[name] = null_label(name)
            continue
        if isinstance(label, str):
            check_choice(f"label for class {name!r} in label_map", label, prior_labels)
        labels[name] = prior_labels[label] if isinstance(label, str) else label
        if labels[name] not in prior_labels.values():
            raise OptionError(f"label_map: class {name!r}: the prior has no label {label!r}")
    return labels


def find_labels(names: Sequence[str], prior_labels: Mapping[str, int]) -> dict[str, int | None]:
    """The prior's label of each class, found as in :func:`build_class_map`; None for a class that it does not know."""
    folded: dict[str, set[int]] = {}
    for name, label in prior_labels.items():
        folded.setdefault(name.casefold(), set()).add(label)

    def label_of(name: str) -> int | None:
        if name in prior_labels:
            return prior_labels[name]
        synonyms = set().union(*(folded.get(part.strip().casefold(), ()) for part in name.split(",")))
        labels = folded.get(name.casefold()) or synonyms
        return next(iter(labels)) if len(labels) == 1 else None

    return {name: label_of(name) for name in names}


def _check_labels(source: str, labels: Mapping[str, int | None], prior_labels: Mapping[str, int]) -> None:
    unknown = [name for name, label in labels.items() if label is None]
    if unknown:
        raise ClassMapError(
            f"{source}: the prior does not know {len(unknown)} of {len(labels)} classes: {some(unknown)}. "
            f"It knows {some(list(prior_labels))}. Keep classes that it knows (classes=), say which of its labels "
            "stands for a class (label_map=; no label is its null condition), rename the source's classes to its label "
            "names or to ImageNet wnids, or teach it the class, "
            f"dap.adapt_prior({argument(source)}, out='adapted'). Or {ways_out(source)}"
        )
    by_label: dict[int | None, list[str]] = {}
    for name, label in labels.items():
        by_label.setdefault(label, []).append(name)
    shared = {label: names for label, names in by_label.items() if len(names) > 1}
    if shared:
        pairs = "; ".join(f"{some(names)} to label {label}" for label, names in list(shared.items())[:5])
        raise ClassMapError(
            f"{source}: different classes lead to the same label of the prior: {pairs}; keep one of each"
        )


def to_json(entries: Sequence[ClassEntry]) -> list[dict[str, object]]:
    """The class map as it stands in the manifest."""
    return [asdict(entry) for entry in entries]


def from_json(values: object) -> tuple[ClassEntry, ...]:
    """The class map in a manifest, checked: each folder must be the escaped class name.

    Raises:
        FormatError: It is not a list of objects as :func:`to_json` writes them.
    """
    check_shape("damaged class map", values, CLASS_MAP)
    return tuple(ClassEntry(**value) for value in values)  # type: ignore[attr-defined]


def _check_entry(name: str, value: object) -> None:
    """The shape of one class in a manifest."""
    ENTRY(name, value)
    folder = escape(value["name"])  # type: ignore[index]
    choice(folder)(f"{name}.folder", value["folder"])  # type: ignore[index]


ENTRY = fields({
    "name": TEXT, "source_id": either(TEXT, whole(-(2**63))), "prior_label": either(NOTHING, whole()), "folder": TEXT,
})  # fmt: skip
CLASS_MAP = items(_check_entry, least=1)
