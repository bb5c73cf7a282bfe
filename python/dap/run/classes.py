"""The classes of a run with their labels in the prior, and the source that belongs to an index."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from dap.data.classmap import ClassEntry, LabelMap, build_class_map, null_label
from dap.data.open import SourceLike, open_source
from dap.data.source import Source
from dap.errors import ClassMapError, OptionError
from dap.features import check_prior, check_source, class_names, source_of_index
from dap.index import Index, open_index
from dap.priors import NoPrior, Prior

__all__ = ["as_index", "classes_of_run", "classes_of_source", "open_index_and_source"]


def as_index(index: str | Path | Index) -> Index:
    """Return an index as it is, or open the one in a folder."""
    return index if isinstance(index, Index) else open_index(index)


def open_index_and_source(
    index: str | Path | Index, source: SourceLike | None, classes: Collection[str] | None
) -> tuple[Index, Source]:
    """Open an index, and the given source or, without one, a source of the index's classes and ids without images.

    Raises:
        OptionError: The index was built from another source, or lacks a class.
        FormatError: The index is damaged.
    """
    opened = as_index(index)
    if source is None:
        return opened, source_of_index(opened, classes)
    images = open_source(source)
    check_source(opened, images)
    return opened, images.subset(class_names(opened, classes))


def classes_of_run(
    source: Source, index: Index | None, prior: Prior, label_map: LabelMap | None
) -> tuple[ClassEntry, ...]:
    """Return the class map of a run; with an index, its labels are those that the index was made with.

    Raises:
        ClassMapError: The prior does not know a class, or two classes lead to the same label.
        OptionError: The index is another prior's; or ``label_map`` has an unknown class or label, or names a null
            condition that the prior does not have.
    """
    if index is not None:
        return _classes_of_index(index, source, prior)
    if isinstance(prior, NoPrior):
        return build_class_map(source, None)
    return classes_of_source(source, prior, label_map)


def classes_of_source(source: Source, prior: Prior, label_map: LabelMap | None) -> tuple[ClassEntry, ...]:
    """Return the class map of real images under a prior; see :func:`classes_of_run`."""
    unlabelled = [name for name, label in (label_map or {}).items() if label is None]
    if unlabelled and not prior.has_null:
        raise OptionError(f"label_map: class {unlabelled[0]!r} has no label, and {prior.name} has no null condition")
    for name in source.class_names:
        labels = () if name in (label_map or {}) else prior.ambiguous.get(name.casefold(), ())
        if labels and name not in prior.labels_of([name]):
            raise ClassMapError(
                f"{source.name}: class {name!r} may be any of the prior's labels {', '.join(map(str, labels))}: name "
                f"the folder by its ImageNet wnid, or say which it is, with label_map={{{name!r}: {labels[0]}}}"
            )
    for name, label in (label_map or {}).items():
        if not isinstance(label, str) or label in prior.labels_of([label]):
            continue
        if labels := prior.ambiguous.get(label.casefold(), ()):
            raise OptionError(
                f"label_map: {label!r} for class {name!r} may be any of the prior's labels "
                f"{', '.join(map(str, labels))}: give its number, label_map={{{name!r}: {labels[0]}}}"
            )
    return build_class_map(source, prior.labels_of(source.class_names), label_map)


def _classes_of_index(index: Index, source: Source, prior: Prior) -> tuple[ClassEntry, ...]:
    """Return the class map of an index: the same whether its source is given or left out."""
    labels = None
    if not isinstance(prior, NoPrior):
        check_prior(index, prior)
        labels = {entry.name: entry.label for entry in index.classes if entry.label is not None}
        known = prior.labels_of(source.class_names).values()
        for name in source.class_names:
            if labels.get(name) not in known and labels.get(name) != null_label(name):
                raise OptionError(
                    f"index: its label of class {name!r} is not the prior's; was it made for another prompt?"
                )
    return tuple(replace(entry, source_id=entry.name) for entry in build_class_map(source, labels))
