"""A seeded random choice of real images within each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dap import rng
from dap.errors import SourceError

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["permutation", "random_per_class"]


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
