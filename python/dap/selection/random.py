"""Seeded random choices: of rows, and of real images of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dap import rng
from dap.errors import SourceError
from dap.kernels import Kernel
from dap.kernels.arrays import Array
from dap.selection.base import DISTANCE, Embedding, Selection, as_rows

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["permutation", "random", "random_of_each_class", "random_per_class"]


def permutation(n: int, seed: int, class_name: str) -> np.ndarray:
    """Return a random order of the n images of a class; it depends on n, the seed and the class's name alone.

    Returns:
        int64 with shape (n,), each of 0 … n−1 once.

    Example:
        >>> sorted(permutation(4, seed=0, class_name="Dress").tolist())
        [0, 1, 2, 3]
    """
    import torch

    order: np.ndarray = torch.randperm(n, generator=rng.generator(seed, "select", class_name)).numpy()
    return order


def random_per_class(source: Source, per_class: int | Mapping[str, int], seed: int) -> np.ndarray:
    """Choose images of each class at random; the first k of a larger choice are the choice of k.

    Args:
        source: The labelled images.
        per_class: The number of images of every class; or a mapping from class names to numbers, which leaves out the
            classes that it does not name. A class with fewer images gives all of them.
        seed: The same seed gives the same choice.

    Returns:
        int64 indices into the source: class after class, in the order of the mapping; in a class, in the drawn order.

    Raises:
        SourceError: The mapping names a class that the source does not have.
    """
    return np.concatenate([np.empty(0, np.int64), *random_of_each_class(source, per_class, seed).values()])


def random_of_each_class(source: Source, per_class: int | Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Return the choice of :func:`random_per_class` by class name; arguments and errors are the same."""
    if not isinstance(per_class, Mapping):
        per_class = dict.fromkeys(source.class_names, per_class)
    numbers = {name: number for number, name in enumerate(source.class_names)}
    if missing := [name for name in per_class if name not in numbers]:
        raise SourceError(f"{source.name}: no class {', '.join(map(repr, missing))}; it has {', '.join(numbers)}")
    chosen = {}
    for name, count in per_class.items():
        members = source.of_class(numbers[name])
        chosen[name] = members[permutation(len(members), seed, name)[:count]]
    return chosen


def random(features: Array, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
    """Draw rows without replacement; the first rows of a larger choice are those of a smaller one.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: The number of rows, 1 ≤ count ≤ N.
        kernel: A kernel of :mod:`dap.kernels` or its name, for the error alone.
        seed: The seed of the draw.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: The features, the count or the kernel do not fit.

    Example:
        >>> len(set(random(np.eye(5), 3).indices.tolist()))
        3
    """
    rows = as_rows(features, count)
    return Embedding.of(rows, kernel).select(np.random.default_rng(seed).permutation(len(rows))[:count])
