"""The walk over folders on disk: which folders and which image files lie below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dap.data.file_kinds import HEAD, describe
from dap.data.image_files import IMAGE_EXTENSIONS, UNREAD_EXTENSIONS
from dap.errors import SourceError

__all__ = ["ClassTree", "has_images", "subfolders"]


class ClassTree:
    """The image files of a tree of class folders.

    Links are followed, and each real folder is visited once: a link to a folder above it, or to one that another class
    has, adds nothing.

    Args:
        tree: The folder that holds the class folders.

    Attributes:
        files: Sorted paths of the images of each class folder, at any depth; the folders sorted by name.
        skipped: (path, reason) of each file that looks like an image, and of each folder, that is not read.

    Raises:
        SourceError: ``tree`` cannot be read.
    """

    def __init__(self, tree: Path) -> None:
        self.skipped: list[tuple[str, str]] = []
        real = tree.resolve()
        self._visited = {_identity(folder): str(folder) for folder in (real, *real.parents)}
        classes = [entry.path for entry in _folders(tree) if self._is_new(entry.path)]
        self.files = {os.path.basename(folder): self._images(folder) for folder in classes}

    def _is_new(self, folder: str) -> bool:
        try:
            first = self._visited.setdefault(_identity(folder), folder)
        except OSError as error:
            self._skip(folder, str(error.strerror))
            return False
        if first is not folder:
            self._skip(folder, "a link to a folder that is read already, or lies above")
        return first is folder

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append((path, reason))

    def _images(self, folder: str) -> list[str]:
        files, folders = [], [folder]
        while folders:
            for entry in self._entries(folders.pop()):
                if entry.is_dir():
                    if self._is_new(entry.path):
                        folders.append(entry.path)
                elif reason := _reason_to_skip(entry):
                    self._skip(entry.path, reason)
                elif _is_image(entry.name):
                    files.append(entry.path)
        return sorted(files)

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            yield from _visible(folder)
        except OSError as error:
            self._skip(folder, f"a folder that cannot be read ({error.strerror})")


def _reason_to_skip(entry: os.DirEntry[str]) -> str | None:
    """Why a file that looks like an image is not read; None if it is read, or does not look like one."""
    extension = os.path.splitext(entry.name)[1].lower()
    if extension in UNREAD_EXTENSIONS:
        return extension
    if extension in IMAGE_EXTENSIONS:
        return None if entry.is_file() else "a broken link, or no regular file"
    if not extension and entry.is_file():
        with suppress(OSError), open(entry.path, "rb") as file:
            kind = describe(file.read(HEAD))
            return f"{kind} without an extension" if kind in ("a PNG file", "a JPEG file", "a WebP file") else None
    return None


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in _visible(folder) if entry.is_dir()]
    except OSError as error:
        raise SourceError(f"{folder}: expected a folder that can be read ({error.strerror})") from error


def subfolders(folder: Path) -> list[str]:
    """The sorted names of the folders in a folder, but hidden ones and links to folders above it.

    Raises:
        SourceError: The folder cannot be read.
    """
    real = os.path.realpath(folder)
    return [entry.name for entry in _folders(folder) if not _leads_up(entry, real)]


def _leads_up(entry: os.DirEntry[str], real: str) -> bool:
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return os.path.commonpath([target, real]) == target


def has_images(folder: Path, *, depth: int = 0) -> bool:
    """Whether a folder holds an image file, or one of its folders down to ``depth`` does; False if it is unreadable."""
    with suppress(OSError, SourceError):
        with os.scandir(folder) as entries:
            if any(_is_image(entry.name) and entry.name[0] != "." for entry in entries):
                return True
        return depth > 0 and any(has_images(folder / name, depth=depth - 1) for name in subfolders(folder))
    return False
