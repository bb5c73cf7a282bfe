"""The validation split of Tiny ImageNet: all images in one folder, their classes in ``val_annotations.txt``.

Each line of it is a file name, a class and a bounding box, separated by tabs.
"""

from __future__ import annotations

from pathlib import Path

from dap.data.names import some
from dap.errors import FormatError

__all__ = ["annotated_files", "annotations_file"]

FOLDER = "images"


def annotations_file(folder: Path) -> Path | None:
    """The file of a folder that gives the classes of the images in its folder ``images``; None if it has none."""
    files = sorted(folder.glob("*_annotations.txt")) if (folder / FOLDER).is_dir() else []
    return files[0] if files else None


def annotated_files(annotations: Path) -> dict[str, list[str]]:
    """The sorted paths of the images of each class, the classes sorted by name.

    Raises:
        FormatError: A line has another form or names a file that is not there, or an image has no line.

    Example:
        >>> annotated_files(Path("tiny-imagenet-200/val/val_annotations.txt"))  # doctest: +SKIP
        {'n01443537': ['tiny-imagenet-200/val/images/val_1000.JPEG', …], …}
    """
    folder = annotations.parent / FOLDER
    files: dict[str, list[str]] = {}
    missing = {entry.name for entry in folder.iterdir() if entry.is_file() and entry.name[0] != "."}
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{annotations}: expected text in UTF-8 ({error})") from error
    for number, line in enumerate(lines, 1):
        name, class_name, *_ = [*line.split("\t"), ""]
        if not class_name or name not in missing:
            raise FormatError(
                f"{annotations}: line {number}: expected a file in {FOLDER!r}, each once, and its class, separated by "
                f"tabs, got {line[:80]!r}"
            )
        missing.remove(name)
        files.setdefault(class_name, []).append(str(folder / name))
    if missing:
        raise FormatError(
            f"{annotations}: expected a line for each file in {FOLDER!r}, found none for {some(sorted(missing))}"
        )
    return {class_name: sorted(files[class_name]) for class_name in sorted(files)}
