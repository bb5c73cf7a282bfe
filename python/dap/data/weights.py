"""The weights of images: how many real images of its class each of them stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dap.data.manifest import counts_in
from dap.errors import FormatError, OptionError

__all__ = ["WEIGHTS", "class_weights", "recorded_weights"]

WEIGHTS = "weights"  # the name of the tensor beside the images, and of the manifest's entry


def recorded_weights(manifest: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Return the weights that a run's manifest records, as a tensor beside its images; none if it has none.

    Args:
        manifest: The manifest.
        name: Of the run, for errors.

    Raises:
        FormatError: They are not those of the run's images.
    """
    by_class = manifest.get(WEIGHTS)
    if by_class is None:
        return {}
    names = [entry["name"] for entry in manifest["class_map"]]
    expected, found = dict(zip(names, counts_in(manifest), strict=True)), {key: len(by_class[key]) for key in by_class}
    if found != expected:
        raise FormatError(
            f"{name}: dap.json: weights: expected one for each image, {expected}, got {found}; restore the file, or "
            "delete this entry of it"
        )
    return {WEIGHTS: np.array([weight for name in names for weight in by_class[name]])}


def class_weights(tensors: Mapping[str, object], labels: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    """Return the weights among the tensors of a set, scaled to a mean of 1 in each class; None if there are none.

    Args:
        tensors: Arrays or tensors by name, with a row for each image.
        labels: The label of each image, int64 (N,).
        names: The name of each class.

    Returns:
        float32 (N,).

    Raises:
        OptionError: They are not one number of at least 0 for each image, and above 0 for some image of each class.

    Example:
        >>> class_weights({"weights": np.array([30, 10, 5])}, np.array([0, 0, 1]), ("a", "b")).tolist()
        [1.5, 0.5, 1.0]
    """
    if WEIGHTS not in tensors:
        return None
    given = np.asarray(tensors[WEIGHTS])
    if given.shape != labels.shape or given.dtype.kind not in "fiu":
        raise OptionError(
            f"weights: expected a number for each of {len(labels)} images, got {given.dtype} of {given.shape}"
        )
    wrong = np.flatnonzero(~(np.isfinite(given) & (given >= 0)))
    if len(wrong):
        raise OptionError(f"weights: expected numbers of at least 0, got {given[wrong[0]]} for image {wrong[0]}")
    scaled = np.empty(len(labels))
    for label in np.unique(labels):
        own = given[labels == label].astype(np.float64)
        if not own.any():
            raise OptionError(
                f"weights: every image of class {names[label]!r} has the weight 0: take other images, or leave it out"
            )
        shares = own / own.max()  # a sum of large numbers would not be finite
        scaled[labels == label] = shares / shares.mean()
    return scaled.astype(np.float32)
