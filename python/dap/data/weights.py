"""The weights of images: how many real images of its class each of them stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dap.data.manifest import counts_in
from dap.errors import FormatError

__all__ = ["WEIGHTS", "class_weights", "recorded_weights"]

WEIGHTS = "weights"  # the name of the tensor beside the images, and of the manifest's entry


def recorded_weights(manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the weights that a run's manifest records, as a tensor beside its images; none if it has none.

    Raises:
        FormatError: They are not those of the run's images.
    """
    by_class = manifest.get(WEIGHTS)
    if by_class is None:
        return {}
    names = [entry["name"] for entry in manifest["class_map"]]
    counts = {name: len(by_class.get(name, ())) for name in names}
    if list(counts.values()) != list(counts_in(manifest)):
        raise FormatError(f"dap.json: weights: expected one for each image of a class, got {counts}")
    return {WEIGHTS: np.array([weight for name in names for weight in by_class[name]])}


def class_weights(tensors: Mapping[str, np.ndarray], labels: np.ndarray, name: str) -> np.ndarray | None:
    """Return the weights among the tensors of a set, scaled to a mean of 1 in each class; None if there are none.

    Args:
        tensors: Arrays by name, with a row for each image.
        labels: The label of each image, int64 (N,).
        name: Of the set, for errors.

    Returns:
        float32 (N,).

    Raises:
        FormatError: They are not one number of at least 0 for each image, and above 0 for some image of each class.

    Example:
        >>> class_weights({"weights": np.array([30, 10, 5])}, np.array([0, 0, 1]), "a set").tolist()
        [1.5, 0.5, 1.0]
    """
    if WEIGHTS not in tensors:
        return None
    given = tensors[WEIGHTS].astype(np.float64)
    sums = np.bincount(labels, given) if given.shape == labels.shape else np.zeros(0)
    counts = np.bincount(labels)
    if not len(sums) or not np.isfinite(given).all() or given.min() < 0 or (sums[counts > 0] == 0).any():
        raise FormatError(
            f"{name}: weights: expected a number of at least 0 for each of {len(labels)} images, and above 0 for some "
            f"image of each class, got {tensors[WEIGHTS].dtype} of {tensors[WEIGHTS].shape}"
        )
    scaled: np.ndarray = given * (counts / np.where(counts, sums, 1))[labels]
    return scaled.astype(np.float32)
