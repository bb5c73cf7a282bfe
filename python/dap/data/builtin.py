"""The built-in sources, and folders of idx files (MNIST and similar sets), which they are stored in.

``fashion-mini`` ships with dap: 1,000 train images a class and the 10,000 test images of Fashion-MNIST (Xiao, Rasul and
Vollgraf, 2017, arXiv 1708.07747; MIT licence), made by ``examples/fashion_mini/make.py``. ``fashion-mnist`` is the full
set, if Debian's package is installed. Images of 28×28 are padded with 2 black pixels on each side, to 32×32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dap.config import check_choice
from dap.data.from_labels import source_from_labels
from dap.data.idx import idx_files, read_idx
from dap.data.names import some
from dap.data.source import Source
from dap.data.splits import split_order
from dap.errors import FormatError, SourceError

__all__ = ["BUILTIN", "FASHION_CLASSES", "open_builtin", "open_idx_folder", "recorded_builtin"]

BUILTIN = ("fashion-mini", "fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
ASSETS = Path(__file__).parents[1] / "assets" / "fashion_mini"
IDX_PREFIX = {"train": "train", "test": "t10k"}
FASHION_LABELS = {  # sha256 of the label arrays: Fashion-MNIST's files are named exactly like MNIST's
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}


def recorded_builtin(manifest: Mapping[str, Any]) -> str | None:
    """Return the built-in source that a run's manifest names, if it names one.

    A folder that it names is not opened unless the user says so: somebody else may have written the manifest.
    """
    name = manifest["source"]["name"] if manifest else None
    return name if name in BUILTIN else None


def open_builtin(name: str, *, split: str = "train") -> Source:
    """Opens ``"fashion-mini"`` or ``"fashion-mnist"``.

    Args:
        name: One of ``BUILTIN``.
        split: ``"train"`` or ``"test"``.

    Raises:
        OptionError: Another name or split.
        SourceError: ``"fashion-mnist"`` is not on this machine.

    Example:
        >>> len(open_builtin("fashion-mini", split="test"))
        10000
    """
    check_choice("built-in source", name, BUILTIN)
    split = split_order(split)[0]
    check_choice("split", split, IDX_PREFIX)
    if name == "fashion-mini":
        return _fashion_mini(split)
    if not idx_files(DEBIAN_FOLDER):
        raise SourceError(
            f"fashion-mnist: not found at {DEBIAN_FOLDER}; apt install dataset-fashion-mnist, "
            "or give the folder that holds its four idx files"
        )
    return open_idx_folder(DEBIAN_FOLDER, split=split, name=name)


@lru_cache
def _fashion_mini(split: str) -> Source:
    return _idx_source(
        "fashion-mini", split, ASSETS / f"{split}-images.idx.xz", ASSETS / f"{split}-labels.idx.xz", FASHION_CLASSES
    )


def open_idx_folder(path: Path, *, split: str = "train", name: str | None = None) -> Source:
    """Opens a folder with MNIST's four files (:func:`dap.data.idx.idx_files`), each plain or ``.gz`` or ``.xz``.

    Fashion-MNIST is recognised by its labels and gets its class names; in other sets the labels are the class names.

    Args:
        path: The folder: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k``.
        split: ``"train"`` or ``"test"``, or another name of one of them (:func:`dap.data.splits.split_order`).
        name: The source's name in the manifest; None: the path.

    Raises:
        OptionError: Another split.
        SourceError: A file is missing.
        FormatError: A file is damaged, or images and labels differ in number.
    """
    split = split_order(split)[0]
    check_choice("split", split, IDX_PREFIX)
    files = idx_files(path)
    if (split, "images") not in files or (split, "labels") not in files:
        prefix = IDX_PREFIX[split]
        raise SourceError(
            f"{path}: expected {prefix}-images-idx3-ubyte and {prefix}-labels-idx1-ubyte, each plain, .gz or .xz; "
            f"found {some([file.name for file in files.values()]) or 'neither'}"
        )
    return _idx_source(name or str(path), split, files[split, "images"], files[split, "labels"], None)


def _idx_source(name: str, split: str, image_file: Path, label_file: Path, names: Sequence[str] | None) -> Source:
    labels = read_idx(label_file)
    images = read_idx(image_file, count=len(labels))
    if images.ndim != 3 or labels.ndim != 1:
        raise FormatError(
            f"{image_file}: expected images (N, H, W) and N labels, got {images.shape} and {labels.shape}"
        )
    if names is None and hashlib.sha256(labels.tobytes()).hexdigest() in FASHION_LABELS:
        names = FASHION_CLASSES
    if images.shape[1:] == (28, 28):
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    source = source_from_labels(name, labels, names, partial(_load, images), prefix=f"{split}/")
    return replace(source, license="mit") if name in BUILTIN else source


def _load(images: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(images[index])
