"""Finds the split of a set below a folder: in the split's own folder, in shards, or in a folder around the set.

A set may lie in ``train/<class>/``, in ``data/train-00000.parquet`` (the hub) or in ``MNIST/raw`` (torchvision), beside
the archives that it came from. A layout with two meanings raises an error that says what was found.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

from dap.data.idx import idx_files
from dap.data.names import some
from dap.data.shard_paths import shard_files
from dap.data.splits import folder_splits, split_order
from dap.data.tiny_imagenet import annotations_file
from dap.data.tree import has_images, subfolders
from dap.errors import SourceError

__all__ = ["find_split"]

logger = logging.getLogger(__name__)

Holding: TypeAlias = Literal["idx", "shards", "classes"]
MAX_DEPTH = 3  # folders around a set that are looked through


def find_split(path: Path, split: str) -> tuple[Path, Holding]:
    """The folder, ``path`` or one below it, that holds a split, and whether as idx files, shards or class folders.

    Args:
        path: An existing folder.
        split: The split, where there are several.

    Raises:
        SourceError: There are only other splits, or several sets or splits that could be meant.
    """
    folder = path
    for _ in range(MAX_DEPTH + 1):
        found = _step(folder, split)
        if not isinstance(found, Path):
            return folder, found
        folder = found
    raise SourceError(f"{path}: expected a set at most {MAX_DEPTH} folders below; open the folder that holds it")


def _step(path: Path, split: str) -> Path | Holding:
    """The folder to look into next, or what ``path`` holds itself."""
    if idx_files(path):
        return "idx"
    folders = subfolders(path)
    shards = shard_files(path)
    if splits := _split_folders(path, folders, split):
        if shards:
            logger.warning("%s: its folders %s are read, not the files %s", path, some(list(splits)), _names(shards))
        return path / _choose(path, split, splits)
    if others := [file for file in shards if file.name.split(".")[0] not in folders]:
        classes = [name for name in folders if has_images(path / name)]
        if len(classes) > 1:
            raise SourceError(
                f"{path}: expected either shards or folders of images, found both: {_names(others)} and the folders "
                f"{some(classes)}; open the shards by a pattern ({path}/*{others[0].suffix}), or move them elsewhere"
            )
        return "shards"
    if shards:  # each is the archive of a folder beside it
        logger.warning("%s: its folders are read, not the files %s", path, _names(shards))
    return _inner_set(path, folders) or "classes"


def _inner_set(path: Path, folders: list[str]) -> Path | None:
    """The only folder of ``path`` that is a set by itself."""
    sets = [name for name in folders if _is_set(path / name)]
    filled = list(islice((name for name in folders if name in sets or has_images(path / name, depth=MAX_DEPTH)), 2))
    if len(sets) == 1 and filled == sets:
        return path / sets[0]
    if sets:
        raise SourceError(
            f"{path}: expected one folder of images per class, found in the folders {some(sets)} splits, shards or idx "
            "files, each a set by itself; open one of them"
        )
    if len(filled) == 1 and not has_images(path / filled[0]):
        classes = [name for name in subfolders(path / filled[0]) if has_images(path / filled[0] / name, depth=1)]
        if len(classes) > 1:
            raise SourceError(
                f"{path}: expected one folder of images per class, found the one folder {filled[0]!r}, which has the "
                f"folders {some(classes)}; open {path / filled[0]}, if those are the classes"
            )
    inner = [subfolders(path / name) for name in filled if not has_images(path / name)]
    if len(inner) == 2 and inner[0] == inner[1] and len(inner[0]) > 1:
        logger.warning(
            "%s: its folders are taken for the classes; %s all have the folders %s: if those are the classes, open one "
            "of %s", path, some(filled), some(inner[0]), some(filled),
        )  # fmt: skip
    return None


def _is_set(path: Path, depth: int = MAX_DEPTH - 1) -> bool:
    """Whether a folder has no image of its own but idx files, shards or splits, or contains such a folder."""
    if has_images(path):
        return False
    try:
        folders = subfolders(path)
    except SourceError:  # the walk over the classes will report it
        return False
    splits = folder_splits(folders)
    return (
        bool(idx_files(path) or shard_files(path))
        or len(set(splits.values())) > 1
        or any(_is_split(path / name) for name in splits)
        or (depth > 0 and any(_is_set(path / name, depth - 1) for name in folders))
    )


def _split_folders(path: Path, folders: list[str], split: str) -> Mapping[str, str]:
    """The split of each folder that is one.

    A folder called like a split is a class if it has only images: CIFAR-100 has a class called "train".
    """
    named = folder_splits(folders)
    splits = {name: split for name, split in named.items() if _is_split(path / name)}
    if not splits and len(set(named.values())) > 1:
        raise SourceError(
            f"{path}: expected one folder of images per class in each of the splits {some(list(named))}, found images "
            "without classes; if these are the classes, put their folders into a folder called 'train'"
        )
    if splits and split in folders and _is_split(path / split):
        splits.setdefault(split, split)
    return splits


def _is_split(path: Path) -> bool:
    try:
        return bool(subfolders(path) or shard_files(path) or idx_files(path))
    except SourceError:
        return True  # reading it says why it cannot be read


def _choose(path: Path, split: str, splits: Mapping[str, str]) -> str:
    order = split_order(split)
    if split not in order and split in splits:  # "valid", where "val" is there too
        return split
    for key in order:
        names = [name for name in splits if splits[name] == key]
        labelled = [name for name in names if not _lacks_labels(path, name, splits)]
        if len(labelled) > 1:
            raise SourceError(
                f"{path}: expected one folder for split {split!r}, found {some(labelled)}; open one of them"
            )
        if labelled:
            return labelled[0]
        if names:
            logger.warning("%s: the images in %s have no labels: they lie in one folder", path, some(names))
    raise SourceError(f"{path}: expected a folder of labelled images for split {split!r}, found {some(list(splits))}")


def _lacks_labels(path: Path, name: str, splits: Mapping[str, str]) -> bool:
    """Whether all images of a split lie in one folder that is none of the training classes."""
    if splits[name] == "train" or annotations_file(path / name):
        return False
    folders = subfolders(path / name)
    train = [subfolders(path / other) for other in splits if splits[other] == "train"]
    return len(folders) == 1 and len(train) == 1 and len(train[0]) > 1 and folders[0] not in train[0]


def _names(files: list[Path]) -> str:
    return some([file.name for file in files])
