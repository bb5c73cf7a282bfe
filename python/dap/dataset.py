"""A distilled dataset on disk: images, labels, provenance."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dap.data import classmap
from dap.data.files import read_image
from dap.data.manifest import read_manifest
from dap.data.packing import write_packed
from dap.data.shard import Sample
from dap.errors import FormatError, OptionError, SourceError
from dap.report import contact_sheet
from dap.run import slot_path

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = ["DistilledDataset"]


class DistilledDataset:
    """What ``dap.distill`` made, opened from its folder.

    Args:
        path: The output folder of a run that is complete.

    Attributes:
        path: The folder.
        manifest: All of ``dap.json``: options, versions, seeds, class map, hashes, seconds.
        class_names: Names of the classes; a label is a position in it.

    Raises:
        SourceError: The folder holds no manifest, or the run there was not finished.
        FormatError: The manifest is damaged.

    Example:
        >>> import dap
        >>> images, labels = dap.load("distilled").to_torch()  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = read_manifest(self.path)
        if manifest is None:
            raise SourceError(f"{self.path}: expected a folder made by dap.distill, found no dap.json")
        if manifest["status"] != "complete":
            raise SourceError(f"{self.path}: the run there was not finished; run the same command again to continue it")
        self.manifest: dict[str, Any] = manifest
        entries = classmap.from_json(manifest["class_map"])
        self.class_names = tuple(entry.name for entry in entries)
        numbers = range(manifest["ipc"])
        self._slots = [(label, slot_path(entry.folder, n)) for label, entry in enumerate(entries) for n in numbers]
        self._best_first = []
        for entry in entries:
            rank = manifest.get("rank", {}).get(entry.name, list(numbers))
            if sorted(rank) != list(numbers):
                raise FormatError(f"{self.path}: expected ranks 0 to {len(numbers) - 1} of {entry.name!r}, got {rank}")
            self._best_first.append([slot_path(entry.folder, rank.index(place)) for place in numbers])

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image, uint8 with shape (C, H, W), and label."""
        label, file = self._slots[index]
        pixels = np.asarray(read_image(self.path / file))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), label

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[index] for index in range(len(self)))

    @property
    def labels(self) -> np.ndarray:
        """Labels, int64 with shape (N,), in order of class and slot."""
        return np.array([label for label, _ in self._slots], np.int64)

    @property
    def files(self) -> list[str]:
        """Path of each image below the folder, in order of class and slot."""
        return [file for _, file in self._slots]

    def take(self, n: int) -> DistilledDataset:
        """The best n images of each class, best first: the same folder, seen in part.

        The best are those that the method ranked first (``rank`` in the manifest): chosen one after another so that
        each prefix stands for the class. Where it ranks none they are the first n slots.

        Args:
            n: Images of each class, from 1 to as many as there are.

        Raises:
            OptionError: There are fewer.

        Example:
            >>> import dap
            >>> images, labels = dap.load("distilled").take(5).to_torch()  # doctest: +SKIP
        """
        most = len(self._best_first[0])
        if type(n) is not int or not 1 <= n <= most:
            raise OptionError(f"take: expected 1 to {most} images per class, as many as there are, got {n!r}")
        part = copy.copy(self)
        part._best_first = [best[:n] for best in self._best_first]
        part._slots = [(label, file) for label, best in enumerate(part._best_first) for file in best]
        return part

    def to_torch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All images, uint8 (N, C, H, W), and labels, int64 (N,), in order of class and slot."""
        import torch

        return torch.from_numpy(np.stack([image for image, _ in self])), torch.from_numpy(self.labels)

    def save(
        self,
        out: str | Path,
        *,
        format: str = "imagefolder",
        codec: str | None = None,
        quality: int = 95,
        maxcount: int = 100_000,
        maxsize: int = 500_000_000,
        on_error: str = "raise",
    ) -> dict[str, Any]:
        """Packs the set into a format that other packages read; :func:`dap.data.packing.write_packed` says how.

        Args:
            out: The folder: new, empty, or of the same packing.
            format: "imagefolder", "webdataset", "parquet" or "safetensors".
            codec: "png", "jpeg" or "webp" (lossless); None keeps the files as they are.
            quality: Of JPEG, 1 to 100.
            maxcount: Most images of a shard.
            maxsize: Most bytes of a shard's images.
            on_error: "skip" leaves out what cannot be decoded, and lists it.

        Returns:
            What ``pack.json`` holds: "files", "images", "skipped", and this set's manifest as "provenance".

        Raises:
            DapError: One of its kinds, for a bad option, a damaged image, or a folder that holds something else.

        Example:
            >>> import dap
            >>> dap.load("distilled").save("shards", format="webdataset")  # doctest: +SKIP
        """
        samples = (
            Sample(file.removeprefix("train/").removesuffix(".png"), label, (self.path / file).read_bytes)
            for label, file in self._slots
        )
        return write_packed(
            samples, out, format=format, class_names=self.class_names, provenance=self.manifest, codec=codec,
            quality=quality, maxcount=maxcount, maxsize=maxsize, on_error=on_error,
        )  # fmt: skip

    def show(self) -> Image.Image:
        """The contact sheet, as a Pillow image."""
        rows: dict[int, list[Path]] = {}
        for label, file in self._slots:
            rows.setdefault(label, []).append(self.path / file)
        return contact_sheet([(self.class_names[label], paths) for label, paths in rows.items()])

    def __repr__(self) -> str:
        method = self.manifest["options"]["method"]["name"]
        size = f"{len(self)} images, {len(self.class_names)} classes"
        return f"DistilledDataset({str(self.path)!r}, {size}, method {method!r})"
