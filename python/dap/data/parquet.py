"""Parquet as Hugging Face ``datasets`` writes it: a column of encoded images, a column of labels. Needs ``pyarrow``.

An image is a struct of ``bytes`` and ``path``, or the bytes alone. The schema's metadata has the class names, in the
features of ``datasets`` under the key ``huggingface``. All labels are read at once, images a row group at a time.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dap.data.class_list import class_list
from dap.data.columns import choose_column, holds_bytes, holds_labels, read_labels
from dap.data.from_labels import join_labels, same_in_all, source_from_files
from dap.data.shard_paths import class_names_beside
from dap.data.shard_writer import Record, ShardWriter
from dap.data.source import Source
from dap.errors import FormatError, SourceError
from dap.storage.files import atomic_path, sha256_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["ParquetWriter", "open_parquet"]

MAX_GROUP = 1 << 29  # most bytes of a row group that is read
CACHED_GROUPS = 2
GROUP_ROWS, GROUP_BYTES = 1000, 1 << 25  # size of the row groups that are written

T = TypeVar("T")
Features = Mapping[str, Mapping[str, object]]  # of ``datasets``, by column


def open_parquet(files: Sequence[Path], *, name: str, label_column: str | None = None) -> Source:
    """Opens Parquet files that agree in their columns and class names. Reads the labels, decodes no image.

    The image column is ``image``, or the only one of binary values or structs with ``bytes``; the label column is
    ``label``, or the only ``ClassLabel``, or the only one of integers, booleans or text, also as categories. An image's
    id is ``file.parquet/row``.

    Args:
        files: The files, at least one.
        name: The source's name in the manifest.
        label_column: The label column, where several can be meant.

    Raises:
        FormatError: A file is damaged, lacks an image or a label, or has a row group of more than 512 MiB; the message
            names it.
        OptionError: There is no such ``label_column``.
        SourceError: A file has no such columns, the files disagree, ``pyarrow`` is not installed, or there are no
            images.

    Example:
        >>> open_parquet([Path("train-000000.parquet")], name="mine").ids[:1]  # doctest: +SKIP
        ['train-000000.parquet/0']
    """
    tables = [_File(file, label_column) for file in files]
    same_in_all("columns", [(file.path, f"{file.image_column!r} and {file.label_column!r}") for file in tables])
    labels = join_labels([(file.path, file.labels()) for file in tables])
    names = same_in_all("class names", [(file.path, file.class_names) for file in tables])
    if names is None and labels.dtype.kind == "i":
        names = class_names_beside(files)
    content = hashlib.sha256()
    for file in tables:
        content.update(f"{file.path.name} {file.path.stat().st_size} {file.rows}\n".encode())
    content.update(labels.astype("<i8").tobytes() if labels.dtype.kind == "i" else json.dumps([*labels]).encode())
    read = partial(_read, tables, np.cumsum([file.rows for file in tables]))
    ids = [f"{file.path.name}/{row}" for file in tables for row in range(file.rows)]
    return source_from_files(name, labels, names, read, ids=ids, digest=content.hexdigest())


def _read(files: Sequence[_File], ends: np.ndarray, index: int) -> bytes:
    number = int(np.searchsorted(ends, index, side="right"))
    return files[number].image(index - int(ends[number]) + files[number].rows)


class _File:
    """One file: its columns, and a cache of the last row groups that were read."""

    def __init__(self, path: Path, label_column: str | None) -> None:
        self.path = path
        groups, self.schema = self._try(lambda parquet: (parquet.metadata, parquet.schema_arrow))
        self.rows: int = groups.num_rows
        sizes = [groups.row_group(group).num_rows for group in range(groups.num_row_groups)]
        if sum(sizes) != self.rows or min(sizes, default=0) < 0:
            raise FormatError(f"{path}: claims {self.rows} rows, its row groups have {sum(sizes)}")
        self.ends = np.cumsum(sizes)
        for group in range(groups.num_row_groups):
            if not 0 <= (size := groups.row_group(group).total_byte_size) <= MAX_GROUP:
                raise FormatError(f"{path}: row group {group} claims {size} bytes, expected at most {MAX_GROUP}")
        features = self._features()
        self.image_column = self._column("image", features, "Image", holds_bytes)
        self.label_column = self._column("label", features, "ClassLabel", holds_labels, label_column)
        names = features.get(self.label_column, {}).get("names")
        try:
            self.class_names = None if names is None else class_list(names)
        except ValueError as error:
            raise FormatError(f"{path}: the class names in its metadata: {error}") from error
        self._groups: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()  # pyarrow's reader is not safe for two threads

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_groups": OrderedDict(), "_lock": None}  # each worker process makes its own

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def labels(self) -> np.ndarray:
        """Labels, int64 or text with shape (rows,)."""
        column = self._try(lambda parquet: parquet.read([self.label_column]).column(0))
        if len(column) != self.rows:
            raise FormatError(f"{self.path}: claims {self.rows} rows, has {len(column)} labels")
        return read_labels(self.path, self.label_column, column)

    def image(self, row: int) -> bytes:
        """The encoded bytes of the image in a row."""
        group = int(np.searchsorted(self.ends, row, side="right"))
        with self._lock:
            images = self._groups.pop(group, None)
            if images is None:
                images = self._try(lambda parquet: self._images(parquet, group))
            self._groups[group] = images
            if len(self._groups) > CACHED_GROUPS:
                self._groups.popitem(last=False)
        data: bytes | None = images[row - int(self.ends[group]) + len(images)].as_py()
        if data is None:
            raise FormatError(f"row {row} has no image bytes; a path alone is not followed")
        return data

    def _images(self, parquet: pq.ParquetFile, group: int) -> pa.ChunkedArray:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = int(self.ends[group]) - (int(self.ends[group - 1]) if group else 0)
        # A value may be stored once and used in every row, but none is larger than all that is stored.
        stored_bytes = max(1, parquet.metadata.row_group(group).total_byte_size)
        batch_rows = min(max(1, MAX_GROUP // 8 // stored_bytes), GROUP_ROWS)
        parts, size = [], 0
        for batch in parquet.iter_batches(batch_rows, [group], [self.image_column], use_threads=False):
            column = batch.column(0)
            parts.append(pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column)
            size += parts[-1].nbytes
            if size > MAX_GROUP:
                raise FormatError(f"{self.path}: row group {group} has over {MAX_GROUP} bytes, write smaller ones")
        if sum(map(len, parts)) != rows:
            raise FormatError(f"{self.path}: row group {group} claims {rows} rows, has {sum(map(len, parts))}")
        return pa.chunked_array(parts)

    def _try(self, action: Callable[[pq.ParquetFile], T]) -> T:
        """Calls ``action`` with the open file; every error of pyarrow becomes one error that names the file."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise SourceError(f"{self.path}: to read Parquet: pip install 'dap-distill[parquet]'") from error
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as parquet:
                return action(parquet)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, FormatError | FileNotFoundError):
                raise
            raise FormatError(f"{self.path}: damaged, or no Parquet file ({' '.join(str(error).split())})") from error

    def _features(self) -> Features:
        """The features in the metadata, by column; empty if ``datasets`` did not write the file."""
        try:
            metadata = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
            features = metadata.get("info", {}).get("features", {})
            return {str(name): value for name, value in features.items() if isinstance(value, dict)}
        except (ValueError, AttributeError, RecursionError) as error:
            raise FormatError(f"{self.path}: expected JSON in 'huggingface' of its metadata ({error})") from error

    def _column(
        self,
        usual_name: str,
        features: Features,
        kind: str,
        fits: Callable[[pa.DataType], bool],
        chosen: str | None = None,
    ) -> str:
        fitting: list[str] = [field.name for field in self.schema if fits(field.type)]
        declared = [name for name in fitting if features.get(name, {}).get("_type") == kind]
        return choose_column(self.path, usual_name, self.schema, declared, fitting, chosen)


class ParquetWriter(ShardWriter):
    """Writes a Parquet file that ``datasets`` reads."""

    package = "pyarrow"

    def __init__(self, folder: Path, name: str, class_names: Sequence[str]) -> None:
        super().__init__(folder, f"{name}.parquet", class_names)
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise SourceError("to write Parquet: pip install 'dap-distill[parquet]'") from error
        features = {"image": {"_type": "Image"}, "label": {"names": [*class_names], "_type": "ClassLabel"}}
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        self._schema = pa.schema([("image", image), ("label", pa.int64())], metadata=metadata)
        self._file = atomic_path(folder / self.name)
        self._writer = pq.ParquetWriter(  # without compression: images are compressed already
            self._file.__enter__(), self._schema, compression="none", use_dictionary=False, write_page_checksum=True
        )
        self._rows: list[Record] = []
        self._bytes = 0

    def add(self, record: Record) -> None:
        """Adds a row; full row groups are written to the file."""
        self._rows.append(record)
        self._bytes += len(record.data)
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        images = [{"bytes": row.data, "path": f"{row.key}.{row.extension}"} for row in self._rows]
        labels = [row.label for row in self._rows]
        self._writer.write_table(pa.table([images, labels], schema=self._schema), row_group_size=len(labels))
        self._rows, self._bytes = [], 0

    def finish(self) -> Mapping[str, str]:
        """Makes the shard durable."""
        if self._rows:
            self._flush()
        self._writer.close()
        self._file.__exit__(None, None, None)
        return {self.name: sha256_file(self.folder / self.name)}

    def discard(self) -> None:
        """Deletes the shard."""
        self._writer.close()
        self._file.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
