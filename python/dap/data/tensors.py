"""Sets stored as tensors: safetensors files, and the ``.pt`` files that authors of other methods release.

A safetensors file has ``images``, uint8 (N, C, H, W), ``labels``, int64 (N,), and the class names as JSON in its
metadata, under ``class_names``.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dap.data.from_labels import check_labels, same_in_all, source_from_labels
from dap.data.shard_writer import Record, ShardWriter
from dap.data.source import Source
from dap.errors import FormatError, SourceError
from dap.storage.files import atomic_path, sha256_file

__all__ = ["TENSOR_SUFFIXES", "SafetensorsWriter", "open_tensors", "read_tensors"]

TENSOR_SUFFIXES = (".safetensors", ".pt", ".pth")


def open_tensors(files: Sequence[Path], *, name: str) -> Source:
    """Opens tensor files, and reads all of them into memory.

    Args:
        files: ``.safetensors``, ``.pt`` or ``.pth`` files of one image shape and with the same class names.
        name: The source's name in the manifest.

    Raises:
        FormatError: As :func:`read_tensors`.
        SourceError: The files differ in image shape or class names.
    """
    parts = [read_tensors(file) for file in files]
    same_in_all("image shape", [(file, part[0].shape[1:]) for file, part in zip(files, parts, strict=True)])
    names = same_in_all("class names", [(file, part[2]) for file, part in zip(files, parts, strict=True)])
    images, labels = parts[0][:2]
    if len(parts) > 1:
        images, labels = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    content = hashlib.sha256(json.dumps(names).encode() + labels.astype("<i8").tobytes())
    content.update(np.ascontiguousarray(images).data)
    return source_from_labels(name, labels, names, partial(_load, images), digest=partial(str, content.hexdigest()))


def _load(images: np.ndarray, index: int) -> Image.Image:
    pixels = images[index]
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def read_tensors(path: str | Path) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Reads the images and labels of one file. Only tensors and plain containers of tensors are unpickled.

    Args:
        path: A ``.safetensors`` file, or a ``.pt`` or ``.pth`` file of ``torch.save`` that holds a mapping with
            ``images`` and ``labels``, or a pair of the two. Images are (N, C, H, W), C = 1 or 3, uint8, or float in
            [0, 1], which is scaled and rounded; labels are N integers.

    Returns:
        Images, uint8 (N, C, H, W); labels, int64 (N,); class names by label, or None where the file has none.

    Raises:
        FormatError: The file is damaged, holds something else, or has float images outside [0, 1]; the message names
            it.

    Example:
        >>> images, labels, class_names = read_tensors("train-000000.safetensors")  # doctest: +SKIP
    """
    path = Path(path)
    images, labels, names = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        raise FormatError(
            f"{path}: expected images (N, 1 or 3, H, W) of uint8 or float, got {images.dtype} of {images.shape}"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise FormatError(
            f"{path}: expected {len(images)} integer labels, got {labels.dtype} of {labels.shape}; of one-hot or soft "
            "labels save argmax(1)"
        )
    if images.dtype != np.uint8:
        if not (images.min(initial=0) >= 0 and images.max(initial=0) <= 1):  # also when there is a NaN
            raise FormatError(
                f"{path}: float images must lie in [0, 1], got {images.min()} to {images.max()}; undo the "
                "normalisation before they are saved"
            )
        images = np.rint(images.astype(np.float64) * 255).astype(np.uint8)
    return images, check_labels(path, labels), names


Arrays = tuple[np.ndarray, np.ndarray, list[str] | None]


def _read_safetensors(path: Path) -> Arrays:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = json.loads((file.metadata() or {}).get("class_names", "null"))
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: expected safetensors with images and labels ({error})") from error
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise FormatError(f"{path}: expected class_names as a list of text in the metadata")
    return images, labels, names


def _read_torch(path: Path) -> Arrays:
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
            claimed = sum(entry.file_size for entry in archive.infolist())
        if compressed or claimed > path.stat().st_size:
            raise ValueError("its parts are compressed, or claim more bytes than the file has")
        value = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(value, Mapping):
            value = [value["images"], value["labels"]]
        if not isinstance(value, list | tuple):
            raise TypeError(f"a {type(value).__name__}")
        images, labels = (torch.as_tensor(part) for part in value)
        return images.detach().numpy(), labels.detach().numpy(), None
    except FileNotFoundError:
        raise
    except Exception as error:  # the unpickler raises almost anything when a file is damaged or hostile
        raise FormatError(
            f"{path}: expected a file of torch.save with tensors images and labels, as a mapping or a pair, and "
            f"nothing that weights_only=True refuses ({type(error).__name__}: {str(error).splitlines()[0:1]})"
        ) from error


class SafetensorsWriter(ShardWriter):
    """Writes a safetensors file. Its pixels stay in memory until it is finished."""

    package = "safetensors"

    def __init__(self, folder: Path, name: str, class_names: Sequence[str]) -> None:
        super().__init__(folder, f"{name}.safetensors", class_names)
        self._pixels = bytearray()
        self._labels: list[int] = []
        first = folder / f"{name.rpartition('-')[0]}-000000.safetensors"
        self._shape = _image_shape(first) if first.is_file() else None

    @staticmethod
    def size(record: Record) -> int:
        """Bytes of the record's pixels."""
        return record.pixels.nbytes

    def add(self, record: Record) -> None:
        """Adds an image, which must have the shape of the earlier ones."""
        self._shape = self._shape or record.pixels.shape
        if record.pixels.shape != self._shape:
            raise SourceError(
                f"{record.key}: expected an image {self._shape} like the earlier ones, got {record.pixels.shape}; "
                "safetensors hold images of one shape: choose another format"
            )
        self._pixels += np.ascontiguousarray(record.pixels).data
        self._labels.append(record.label)

    def finish(self) -> Mapping[str, str]:
        """Writes the shard and makes it durable."""
        from safetensors.numpy import save_file

        images = np.frombuffer(self._pixels, np.uint8).reshape(len(self._labels), *(self._shape or (1, 0, 0)))
        tensors: dict[str, np.ndarray] = {"images": images, "labels": np.array(self._labels, np.int64)}
        # one entry only: the order of several would change from run to run
        metadata = {"class_names": json.dumps([*self.class_names], ensure_ascii=False)}
        with atomic_path(self.folder / self.name) as temporary:
            save_file(tensors, temporary, metadata)
        return {self.name: sha256_file(self.folder / self.name)}

    def discard(self) -> None:
        """Frees the pixels."""
        self._pixels.clear()


def _image_shape(shard: Path) -> tuple[int, ...]:
    """Return the shape of the images of a shard: those of all shards have to be alike."""
    from safetensors import safe_open

    with safe_open(shard, framework="numpy") as file:
        return tuple(file.get_slice("images").get_shape()[1:])
