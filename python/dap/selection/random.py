"""A seeded random choice: of rows, and of real images within each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dap import rng
from dap.errors import SourceError
from dap.kernels import Kernel
from dap.selection.base import DISTANCE, Embedding, Selection, as_rows

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["permutation", "random", "random_per_class"]


def permutation(n: int, seed: int, class_name: str) -> np.ndarray:
    """A random order of the n images of a class, which depends on n, the seed and the class's name alone.

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
    """Chooses images of each class at random; the first k of a larger choice are the choice of k.

    Args:
        source: The labelled images.
        per_class: Images of every class; or of each class by its name, in the order in which the mapping lists them,
            and none of the classes that it leaves out. A class with fewer images gives all that it has.
        seed: The same seed gives the same choice.

    Returns:
        int64 indices into the source, class after class, each class's in the order of the choice.

    Raises:
        SourceError: The mapping names a class that the source does not have.
    """
    if not isinstance(per_class, Mapping):
        per_class = dict.fromkeys(source.class_names, per_class)
    numbers = {name: number for number, name in enumerate(source.class_names)}
    if missing := [name for name in per_class if name not in numbers]:
        raise SourceError(f"{source.name}: no class {', '.join(map(repr, missing))}; it has {', '.join(numbers)}")
    chosen = [np.empty(0, np.int64)]
    for name, count in per_class.items():
        members = source.of_class(numbers[name])
        chosen.append(members[permutation(len(members), seed, name)[:count]])
    return np.concatenate(chosen)


def random(features: Any, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
    """Draws rows without replacement; the first rows of a larger choice are those of the smaller one.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: How many rows, 1 ≤ count ≤ N.
        kernel: Of the error: a kernel of :mod:`dap.kernels` or its name. It does not change the choice.
        seed: Of the draw.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: If features, count or kernel do not fit.

    Example:
        >>> len(set(random(np.eye(5), 3).indices.tolist()))
        3
    """
    rows = as_rows(features, count)
    return Embedding.of(rows, kernel).select(np.random.default_rng(seed).permutation(len(rows))[:count])
