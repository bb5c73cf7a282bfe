"""Sources on disk: a folder per class, as torchvision's ``ImageFolder`` and Hugging Face's ``imagefolder`` read it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dap.data.image_files import IMAGE_EXTENSIONS, read_image
from dap.data.names import some, unescape
from dap.data.shard_writer import Record, ShardWriter
from dap.data.source import Source
from dap.data.splits import ALL_SPLIT_NAMES, split_names
from dap.errors import SourceError
from dap.storage.files import sha256_file, write_atomic

__all__ = ["ImageFolderWriter", "dataset_card", "open_folder"]


def open_folder(path: str | Path, *, split: str = "train") -> Source:
    """Opens a class-per-folder tree. Lists files, decodes none.

    ``path`` may hold the classes, or a folder for the split that does (for ``"test"`` also ``val`` or ``validation``).
    Images are found at any depth below their class's folder, sorted by path; hidden files and files with other
    extensions than png, jpg, jpeg, webp and bmp are ignored. A folder name that :func:`dap.data.names.escape` made is
    turned back into the class name.

    Args:
        path: An existing folder.
        split: Which split, where ``path`` has splits.

    Raises:
        SourceError: There are no class folders, a class folder has no images, or there are only other splits.

    Example:
        >>> open_folder("imagenet", split="test").class_names[:2]  # doctest: +SKIP
        ('n01440764', 'n01443537')
    """
    path = Path(path)
    tree = _split_folder(path, split)
    folders = _folders(tree)
    if not folders:
        raise SourceError(f"{tree}: expected one folder of images per class, found no folders in it")
    files = [_image_files(tree / folder) for folder in folders]
    empty = [folder for folder, class_files in zip(folders, files, strict=True) if not class_files]
    if empty:
        extensions = ", ".join(extension[1:] for extension in IMAGE_EXTENSIONS)
        raise SourceError(f"{tree}: no images ({extensions}) in the class folders {some(empty)}; remove or fill them")
    ids = [os.path.relpath(file, path).replace(os.sep, "/") for class_files in files for file in class_files]
    return Source(
        name=str(path),
        class_names=tuple(unescape(folder) for folder in folders),
        source_ids=tuple(folders),
        labels=np.repeat(np.arange(len(folders), dtype=np.int64), [len(class_files) for class_files in files]),
        ids=ids,
        load=partial(_load, path, ids),
        digest=partial(_digest, path, tree, ids),
        read=partial(_read, path, ids),
    )


def _split_folder(path: Path, split: str) -> Path:
    """The folder of a split, or ``path`` itself where there are no splits."""
    candidates = split_names(split)
    for name in candidates:
        if _is_split(path / name):
            return path / name
    if others := [name for name in ALL_SPLIT_NAMES if _is_split(path / name)]:
        raise SourceError(f"{path}: no folder {' or '.join(candidates)} for split {split!r}; it has {some(others)}")
    return path


def _is_split(path: Path) -> bool:
    """Whether a folder called like a split holds folders: CIFAR-100, for one, has a class called "train"."""
    return path.is_dir() and bool(_folders(path))


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _image_files(folder: Path) -> list[str]:
    paths = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [
            os.path.join(parent, name)
            for name in files
            if not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)
        ]
    return sorted(paths)


def _load(path: Path, ids: Sequence[str], index: int) -> Image.Image:
    return read_image(path / ids[index])


def _read(path: Path, ids: Sequence[str], index: int) -> bytes:
    return (path / ids[index]).read_bytes()


def _digest(path: Path, tree: Path, ids: Sequence[str]) -> str:
    content = hashlib.sha256()
    for name in ids:
        file = path / name
        content.update(os.fsencode(file.relative_to(tree).as_posix()) + b"\0%d\n" % file.stat().st_size)
    return content.hexdigest()


class ImageFolderWriter(ShardWriter):
    """Writes a tree, 1,000 images at a time. Each image appears by itself, as ``<split>/<class>/<number>.<extension>``.

    A "shard" is then a group of images that the ledger notes together.
    """

    max_images = 1000

    def __init__(self, folder: Path, name: str, class_names: Sequence[str]) -> None:
        super().__init__(folder, name, class_names)
        self.tree = name.rpartition("-")[0]
        self._files: dict[str, str] = {}

    def add(self, record: Record) -> None:
        """Writes an image, unless a killed packing has left it with the same bytes."""
        path = f"{self.tree}/{record.key}.{record.extension}"
        target = self.folder / path
        if not (target.is_file() and target.read_bytes() == record.data):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, record.data)
        self._files[path] = sha256_file(target)

    def finish(self) -> Mapping[str, str]:
        """Returns the hashes; the images themselves are durable already."""
        return self._files

    def discard(self) -> None:
        """Keeps the images: each is complete."""


def dataset_card(split: str) -> str:
    """The header of a ``README.md`` that tells Hugging Face ``datasets`` which split and labels a tree has.

    Without it ``datasets`` puts a class called "test-tube" into the split "test", and gives a single class no labels.
    """
    files = f"  data_files:\n  - split: {split}\n    path: {split}/**\n"
    return f"---\nconfigs:\n- config_name: default\n{files}  drop_labels: false\n---\n"
