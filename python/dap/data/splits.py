"""Split names: which folder names and shard names belong to a split.

The table is that of ``datasets`` (``SPLIT_KEYWORDS``), which also covers the folders of torchvision's datasets.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

__all__ = ["ALL_SPLIT_NAMES", "folder_splits", "split_names", "split_order", "splits_in_name", "words"]

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("val", "validation", "valid", "dev"),
}
SPLIT_OF: Mapping[str, str] = {name: split for split, names in SPLITS.items() for name in names}
ALL_SPLIT_NAMES = tuple(SPLIT_OF)
FALLBACK: Mapping[str, str] = {"test": "validation"}  # for sets whose test labels are not published, such as ImageNet
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")  # "ILSVRC2012_imgTrain" has the words ILSVRC, img and Train


def split_order(split: str) -> tuple[str, ...]:
    """The splits to look for, the preferred first, in the terms of the table; another name is its own split.

    Example:
        >>> split_order("test"), split_order("Valid"), split_order("extra")
        (('test', 'validation'), ('validation',), ('extra',))
    """
    split = SPLIT_OF.get(split.casefold(), split)
    return (split, FALLBACK[split]) if split in FALLBACK else (split,)


def split_names(split: str) -> tuple[str, ...]:
    """The names under which a split may be stored, the preferred ones first.

    Example:
        >>> split_names("train"), split_names("val"), split_names("extra")
        (('train', 'training'), ('val', 'validation', 'valid', 'dev'), ('extra',))
    """
    return tuple(name for key in split_order(split) for name in SPLITS.get(key, (key,)))


def splits_in_name(name: str) -> list[str]:
    """The splits that a shard's name states: those that have a word of it as a name, in any case.

    Example:
        >>> splits_in_name("imagenet1k-validation-00.tar"), splits_in_name("TRAIN_0.tar"), splits_in_name("strain.tar")
        (['validation'], ['train'], [])
    """
    return sorted({SPLIT_OF[word] for word in words(name) if word in SPLIT_OF})


def words(name: str) -> list[str]:
    """The words of a name, in lower case.

    Example:
        >>> words("ImageNet_val-00.tar")
        ['image', 'net', 'val', 'tar']
    """
    return [word.casefold() for word in WORD.findall(name)]


def folder_splits(names: Iterable[str]) -> dict[str, str]:
    """The split of each folder name that is a split's.

    A split's folder is called by the split alone, or two splits' names differ in nothing else, as ``seg_train`` and
    ``seg_test`` do. A single name such as ``test tube`` is a class.

    Example:
        >>> folder_splits(["Train", "VAL", "docs"])
        {'Train': 'train', 'VAL': 'validation'}
        >>> folder_splits(["seg_train", "seg_test"]), folder_splits(["test tube"])
        ({'seg_train': 'train', 'seg_test': 'test'}, {})
    """
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        splits = splits_in_name(name)
        if len(splits) == 1:
            rest = WORD.sub(lambda word: "" if word[0].casefold() in SPLIT_OF else word[0], name)
            alike[rest.casefold()][name] = splits[0]
    groups = [group for rest, group in alike.items() if not rest or len(set(group.values())) > 1]
    return {name: split for group in groups for name, split in group.items()}
