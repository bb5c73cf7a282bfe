"""Opening distilled datasets, and the images of sets that are evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dap.config import check_path
from dap.data.hub import download_set, is_hub_set
from dap.data.label_order import LabelOrder, reorder_labels
from dap.data.labelled_set import Transform
from dap.data.manifest import read_manifest
from dap.data.names import escape
from dap.data.open import SourceLike, open_source
from dap.data.packed_set import in_packed_order, read_packed
from dap.data.shard_paths import PACKED
from dap.data.sidecar import read_sidecar
from dap.data.source import Source
from dap.data.weights import recorded_weights
from dap.dataset import DistilledDataset
from dap.errors import OptionError, SourceError
from dap.run import open_run, ranking

__all__ = ["images_of_set", "load"]


def load(
    path: SourceLike, *, class_map: LabelOrder | None = None, transform: Transform | None = None
) -> DistilledDataset:
    """Opens a distilled dataset: a run of :func:`distill`, or a set that another method's authors released.

    Args:
        path: The folder of a run; or labelled images of any other kind that :func:`dap.open_source` opens: a
            class-per-folder tree, WebDataset or Parquet shards, safetensors, a ``.pt`` of tensors. The labels of a tree
            are the positions of its sorted folders, but a set that was packed from a run keeps its labels, manifest
            and ranking. The id "user/name" of a dataset of the hub is downloaded; one that
            :meth:`dap.DistilledDataset.push_to_hub` uploaded keeps all of that too.
        class_map: Labels of another order (:func:`dap.data.label_order.reorder_labels`): class names in the order of
            their labels, the label of each name, or a file of one of the two.
        transform: Turns each image that is indexed (``distilled[0]``), a Pillow image, into another value, as in
            torchvision.

    Raises:
        SourceError: Nothing of that kind is there, or the run was not finished.
        FormatError: A file is damaged.
        ClassMapError: The class map does not fit the classes.
        OptionError: ``class_map`` is given for a run, whose manifest has the labels.

    Example:
        >>> import dap
        >>> dap.load("minimax/ipc10", class_map="class_woof.txt").loader(64, augment="standard")  # doctest: +SKIP
    """
    path = check_path("path", path) if isinstance(path, Path) or (isinstance(path, str) and path[:1] == "~") else path
    if is_hub_set(path):
        path = download_set(str(path)) or path
    run = open_run(path) if isinstance(path, str | Path) else None
    if run is not None:
        if class_map is not None:
            raise OptionError(f"{path}: its labels are those of its dap.json; leave class_map= out")
        return DistilledDataset(
            run.source, manifest=run.manifest, best_first=run.best_first, transform=transform,
            tensors=recorded_weights(run.manifest, run.source.name),
        )  # fmt: skip
    try:
        source = open_source(path)
    except SourceError as error:
        raise SourceError(f"{error}; and there is no dap.json of a run") from error
    folder = Path(path) if isinstance(path, str | Path) else None
    packed = None if folder is None else read_packed(folder)
    if class_map is not None:
        source = reorder_labels(source, class_map)
    elif packed is not None:
        source = in_packed_order(source, packed.class_names)
    manifest = {} if packed is None or class_map is not None else packed.manifest
    return DistilledDataset(
        source, manifest=manifest, best_first=ranking(source, manifest), transform=transform,
        tensors=None if folder is None else read_sidecar(folder, source),
    )  # fmt: skip


def images_of_set(distilled: DistilledDataset | SourceLike) -> tuple[Source, Mapping[str, Any]]:
    """Return the images of a set that is evaluated or measured, and the manifest of its run; {} for other images."""
    if isinstance(distilled, DistilledDataset):
        return _sorted(distilled), distilled.manifest
    if not isinstance(distilled, str | Path):
        return open_source(distilled), {}
    folder = download_set(str(distilled)) if is_hub_set(distilled) else Path(distilled).expanduser()
    if folder is None:  # another dataset of the hub
        return open_source(distilled), {}
    if (folder / PACKED).is_file():  # it has labels and a manifest
        return images_of_set(load(folder))
    return open_source(distilled), read_manifest(folder) or {}


def _sorted(distilled: DistilledDataset) -> Source:
    """Return the set's images without classes that have none.

    A run's images are sorted as in its folder, so that ``evaluate`` returns the same numbers for the set and its path.
    """
    source = distilled.source
    if not distilled.manifest:
        return source.subset([source.class_names[label] for label in np.unique(source.labels)])
    source = reorder_labels(source, sorted(source.class_names, key=escape))
    return source.select(sorted(range(len(source)), key=lambda index: (source.labels[index], source.ids[index])))
