"""Exports an index to faiss and Parquet; only these functions need faiss and pyarrow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dap.errors import OptionError
from dap.index.spec import FloatArray, tensor_name
from dap.storage.files import atomic_path

if TYPE_CHECKING:
    import faiss

    from dap.index.reader import Index

__all__ = ["to_faiss", "to_parquet"]

ROWS = 1024  # in a row group


def to_faiss(chunks: Iterable[FloatArray], columns: int) -> faiss.IndexFlatL2:
    """Return a ``faiss.IndexFlatL2`` of rows that come in chunks."""
    try:
        import faiss
    except ImportError as error:
        raise OptionError("to_faiss needs faiss: pip install faiss-cpu") from error
    index = faiss.IndexFlatL2(columns)
    for chunk in chunks:
        index.add(np.ascontiguousarray(chunk, np.float32))
    return index


def to_parquet(index: Index, path: Path) -> None:
    """Write one Parquet file, whole or not at all; see :meth:`dap.index.reader.Index.to_parquet`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise OptionError("to_parquet needs pyarrow: pip install pyarrow") from error
    vectors = pa.list_(pa.float32(), index.spec.feature_shape[0])
    columns = [("class", pa.string()), ("label", pa.int64()), ("id", pa.string())]
    schema = pa.schema([*columns, *((tensor_name(t), vectors) for t in index.timesteps)])
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for entry in index.classes:
            ids = index.ids(entry.name)
            features = [index.features(entry.name, t) for t in index.timesteps]
            for start in range(0, entry.rows, ROWS):
                part = ids[start : start + ROWS]
                rows = [np.ravel(array[start : start + ROWS]).astype(np.float32) for array in features]
                arrays = [pa.FixedSizeListArray.from_arrays(pa.array(values), type=vectors) for values in rows]
                named = [[_utf8(entry.name)] * len(part), [entry.label] * len(part), [*map(_utf8, part)]]
                writer.write_table(pa.table([*named, *arrays], schema=schema))


def _utf8(text: str) -> str:
    """Return a name in which each lone surrogate, which Parquet does not allow, is a backslash and its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
