"""Split names: which folder names and shard names belong to a split."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ALL_SPLIT_NAMES", "split_names"]

SPLITS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val", "validation")}
ALL_SPLIT_NAMES = tuple(name for names in SPLITS.values() for name in names)


def split_names(split: str) -> tuple[str, ...]:
    """The names under which a split may be stored, the preferred one first.

    Example:
        >>> split_names("test"), split_names("val")
        (('test', 'val', 'validation'), ('val',))
    """
    return SPLITS.get(split, (split,))
