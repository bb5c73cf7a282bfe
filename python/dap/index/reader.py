"""Opens an index: reads and checks ``index.json`` at once, and maps the arrays at their first use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import dap._core as _core
from dap.config import check_path, check_whole
from dap.errors import FormatError, OptionError
from dap.index import export
from dap.index.metadata import IndexClass, read_ids, read_metadata
from dap.index.moments import Moments
from dap.index.spec import BLOCK_BYTES, DTYPES, FEATURES, IDS, LATENTS, FloatArray, IndexSpec, tensor_name
from dap.registry import unknown_name_error
from dap.result_text import html_table

if TYPE_CHECKING:
    import faiss

__all__ = ["Index", "IndexClass", "open_index"]

SHOWN = 20  # classes that a notebook shows
MAX_OPEN = 256  # files that stay mapped though nobody holds a view of them; each takes a file descriptor


@dataclass(frozen=True, eq=False, repr=False)
class Index:
    """A feature index. Made by :func:`open_index`; pickles as its path, and may be shared by forked workers.

    Attributes:
        path: The folder.
        spec: The options that its content depends on: source, prior, block, pooling, noise, schedule, shapes, dtypes.
        classes: Its classes, in order.
        hash: SHA-256 (hexadecimal) of ``index.json``, which holds the hashes of all other files.
    """

    path: Path
    spec: IndexSpec
    classes: tuple[IndexClass, ...]
    hash: str
    _mapped: dict[tuple[str, str], dict[str, FloatArray]] = field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self.classes)} classes, {len(self)} images, timesteps {self.timesteps})"

    def _repr_html_(self) -> str:
        rows = [[entry.name, str(entry.rows)] for entry in self.classes[:SHOWN]]
        more = f" (the first {SHOWN} of them)" if len(self.classes) > SHOWN else ""
        return html_table([["class", "images"], *rows], f"{self!r}{more}")

    def __len__(self) -> int:
        """The number of images."""
        return sum(entry.rows for entry in self.classes)

    def __reduce__(self) -> tuple[Callable[[Path], Index], tuple[Path]]:
        """Pickle as the path: another process cannot use the maps of this one, and opens the folder itself."""
        return open_index, (self.path,)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timesteps of its features, in the order of the file."""
        return self.spec.timesteps

    @cached_property
    def _by_name(self) -> dict[str, IndexClass]:
        return {entry.name: entry for entry in self.classes}

    @cached_property
    def _tensor_names(self) -> dict[int, str]:
        return {timestep: tensor_name(timestep) for timestep in self.timesteps}

    def of_class(self, class_name: str) -> IndexClass:
        """Return the class of this name.

        Raises:
            OptionError: The index has no such class; the message lists its classes.
        """
        if class_name not in self._by_name:
            raise unknown_name_error("class", class_name, self._by_name)
        return self._by_name[class_name]

    def features(self, class_name: str, timestep: int) -> FloatArray:
        """Return φ(x_t, t) of a class's images: a view of the file with shape (rows, D), float16 or float32.

        The view is a memory map: elements are read from the file when they are used. It is copy-on-write:
        ``torch.from_numpy`` takes it without a copy or a warning, and changes to it stay in this process. The file
        stays open as long as a view of it is held.

        Args:
            class_name: A class of the index.
            timestep: One of its timesteps.

        Raises:
            OptionError: A class or timestep that the index does not have.
            FormatError: The file's header does not agree with ``index.json``.
        """
        if timestep not in self.timesteps:
            raise OptionError(f"timestep: this index has {', '.join(map(str, self.timesteps))}, got {timestep!r}")
        names, shape, dtype = self._tensor_names, self.spec.feature_shape, self.spec.dtype
        return self._map(self.of_class(class_name), FEATURES, list(names.values()), shape, dtype)[names[timestep]]

    def latents(self, class_name: str) -> FloatArray:
        """Return the latents of a class's images: a view like that of :meth:`features`, with shape (rows, C, h, w)."""
        shape, dtype = self.spec.latent_shape, self.spec.latent_dtype
        return self._map(self.of_class(class_name), LATENTS, ["latents"], shape, dtype)["latents"]

    def ids(self, class_name: str) -> tuple[str, ...]:
        """Return the source's image id of each row."""
        entry = self.of_class(class_name)
        return read_ids(self.path / entry.folder / IDS, entry.rows)

    def chunks(self, class_name: str, timestep: int, rows: int = 1024) -> Iterator[FloatArray]:
        """Return views of the features of up to ``rows`` rows each, in order."""
        check_whole("rows", rows)
        features = self.features(class_name, timestep)
        return (features[start : start + rows] for start in range(0, len(features), rows))

    def moments(self, class_name: str, timestep: int) -> Moments:
        """Return count, mean and scatter of a class's features, from one pass in float64; several can be merged."""
        return Moments.of(self.chunks(class_name, timestep), columns=self.spec.feature_shape[0])

    def mean(self, class_name: str, timestep: int) -> npt.NDArray[np.float64]:
        """Return the mean of a class's features, with shape (D,)."""
        if not self.of_class(class_name).rows:
            raise OptionError(f"class {class_name!r} has no rows, and so no mean")
        total = np.zeros(self.spec.feature_shape)
        for chunk in self.chunks(class_name, timestep):
            total += chunk.sum(axis=0, dtype=np.float64)
        return total / self.of_class(class_name).rows

    def covariance(self, class_name: str, timestep: int) -> npt.NDArray[np.float64]:
        """Return the unbiased covariance of a class's features, with shape (D, D)."""
        return self.moments(class_name, timestep).covariance

    def verify(self) -> None:
        """Read every byte of every file, and compare it with the hashes.

        Raises:
            FormatError: A file is damaged; the message names it and its first damaged block.
        """
        for entry in self.classes:
            for name, record in entry.files.items():
                file = self.path / entry.folder / name
                try:
                    _core.verify_blocks(file, BLOCK_BYTES, list(record.blocks))
                except OSError as error:
                    raise FormatError(f"{file}: cannot be read ({error.strerror})") from error
            self.features(entry.name, self.timesteps[0])
            self.latents(entry.name)
            self.ids(entry.name)

    def to_numpy(self, class_name: str, timestep: int) -> npt.NDArray[np.float32]:
        """Return the features of a class in memory: float32 with shape (rows, D)."""
        return np.array(self.features(class_name, timestep), np.float32)

    def to_faiss(self, class_name: str, timestep: int) -> faiss.IndexFlatL2:
        """Return a ``faiss.IndexFlatL2`` of a class's features.

        Raises:
            OptionError: faiss is not installed.
        """
        return export.to_faiss(self.chunks(class_name, timestep), self.spec.feature_shape[0])

    def to_parquet(self, path: str | Path) -> None:
        """Write one Parquet file: columns class, label, id, and the features of each timestep ("t0980") as float32.

        Raises:
            OptionError: pyarrow is not installed.
        """
        export.to_parquet(self, Path(path))

    def _map(
        self, entry: IndexClass, name: str, tensors: list[str], shape: tuple[int, ...], dtype: str
    ) -> dict[str, FloatArray]:
        """Return views of the tensors of a file, which is mapped if it is not mapped yet."""
        views = self._mapped.get((entry.folder, name))
        if views is None:
            views = map_tensors(self.path / entry.folder / name, tensors, (entry.rows, *shape), dtype)
            self._mapped[entry.folder, name] = views
            for oldest in list(self._mapped)[:-MAX_OPEN]:
                self._mapped.pop(oldest, None)
        return views


def open_index(path: str | Path) -> Index:
    """Open an index. Only ``index.json`` and the sizes of the files are read.

    Args:
        path: The folder.

    Raises:
        FormatError: A file is missing or damaged, or of another format; the message names it and says what to do.
    """
    path = check_path("index", path).absolute()  # a view that is opened later, or elsewhere, is of the same folder
    return Index(path, *read_metadata(path))


def map_tensors(file: Path, tensors: list[str], shape: tuple[int, ...], dtype: str) -> dict[str, FloatArray]:
    """Map a safetensors file that has exactly these tensors in this order, all of one shape and dtype."""
    try:
        layout = _core.read_layout(file)
        data = np.memmap(file, np.uint8, mode="c")
    except OSError as error:
        raise FormatError(f"{file}: cannot be read ({error.strerror}); copy or build it again") from error
    itemsize = np.dtype(dtype).itemsize
    wanted = [(name, DTYPES[dtype], list(shape)) for name in tensors]
    if [tensor[:3] for tensor in layout] != wanted or any(offset % itemsize for *_, offset in layout):
        raise FormatError(
            f"{file}: expected {', '.join(tensors)}, each {dtype} with shape {shape} and aligned to its values; "
            "copy or build it again"
        )
    bytes_each = math.prod(shape) * itemsize
    flat = data.view(np.ndarray)
    return {name: flat[begin : begin + bytes_each].view(dtype).reshape(shape) for name, _, _, begin in layout}
