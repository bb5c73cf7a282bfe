"""Sources on disk: a folder per class, as torchvision's ``ImageFolder`` and Hugging Face's ``imagefolder`` read it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dap.data.file_kinds import KINDS_READ
from dap.data.image_files import log_skipped, read_image
from dap.data.names import readable, some, unescape
from dap.data.shard_writer import Record, ShardWriter
from dap.data.source import Source
from dap.data.tiny_imagenet import annotated_files, annotations_file
from dap.data.tree import ClassTree
from dap.errors import SourceError
from dap.storage.files import remove_below, sha256_file, write_atomic

__all__ = ["ImageFolderWriter", "dataset_card", "open_folder"]


def open_folder(path: str | Path, *, tree: Path | None = None) -> Source:
    """Opens a class-per-folder tree. Lists files, decodes none.

    Images are found at any depth below their class's folder, sorted by path; hidden files and files that are no images
    are left out. What looks like an image and is not read is logged, and listed in ``skipped`` of the result. A folder
    name that :func:`dap.data.names.escape` made is turned back into the class name. Tiny ImageNet's validation folder
    (:mod:`dap.data.tiny_imagenet`) is opened too.

    Args:
        path: An existing folder; ids are paths below it.
        tree: The folder, at or below ``path``, that holds the class folders; None: ``path``.

    Raises:
        SourceError: There are no class folders, or a class folder has no images.

    Example:
        >>> open_folder("imagenet/val").class_names[:2]  # doctest: +SKIP
        ('n01440764', 'n01443537')
    """
    path = Path(path)
    tree = path if tree is None else tree
    skipped: Sequence[tuple[str, str]] = ()
    if annotations := annotations_file(tree):
        files = annotated_files(annotations)
    else:
        walk = ClassTree(tree)
        files, skipped = walk.files, [(_below(path, name), reason) for name, reason in walk.skipped]
    if not files:
        raise SourceError(f"{tree}: expected one folder of images per class, found no folders in it")
    log_skipped(str(path), skipped)
    empty = [folder for folder, class_files in files.items() if not class_files]
    if empty:
        reasons = f" ({some([f'{name}: {reason}' for name, reason in skipped])})" if skipped else ""
        raise SourceError(
            f"{tree}: expected images ({KINDS_READ}) in each class folder, found none in {some(empty)}{reasons}; open "
            "a folder that has only folders of images"
        )
    names = [_below(path, file) for class_files in files.values() for file in class_files]
    return Source(
        name=str(path),
        class_names=tuple(unescape(folder) for folder in files),
        source_ids=tuple(readable(folder) for folder in files),
        labels=np.repeat(np.arange(len(files), dtype=np.int64), [len(class_files) for class_files in files.values()]),
        ids=names,
        load=partial(_load, path, names),
        digest=partial(_digest, path, tree, names),
        digest_of=lambda numbers: _digest(path, tree, [names[number] for number in numbers]),
        read=partial(_read, path, names),
        skipped=skipped,
    )


def _below(path: Path, file: str) -> str:
    return os.path.relpath(file, path).replace(os.sep, "/")


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
        """Deletes the images."""
        remove_below(self.folder, self._files)


def dataset_card(split: str) -> str:
    """The header of a ``README.md`` that tells Hugging Face ``datasets`` which split and labels a tree has.

    Without it ``datasets`` puts a class called "test-tube" into the split "test", and gives a single class no labels.
    """
    files = f"  data_files:\n  - split: {split}\n    path: {split}/**\n"
    return f"---\nconfigs:\n- config_name: default\n{files}  drop_labels: false\n---\n"
