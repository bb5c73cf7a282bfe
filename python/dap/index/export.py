"""To other libraries' formats; none of them is needed otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.index.spec import tensor_name

if TYPE_CHECKING:
    from dap.index.reader import Index

__all__ = ["to_faiss", "to_parquet"]

ROWS = 1024  # of one row group


def to_faiss(chunks: Iterable[npt.NDArray[Any]], columns: int) -> Any:
    """A ``faiss.IndexFlatL2`` of rows that come in chunks."""
    try:
        import faiss
    except ImportError as error:
        raise OptionError("to_faiss needs faiss: pip install faiss-cpu") from error
    index = faiss.IndexFlatL2(columns)
    for chunk in chunks:
        index.add(np.ascontiguousarray(chunk, np.float32))
    return index


def to_parquet(index: Index, path: Path) -> None:
    """Writes one Parquet file, whole or not at all; see :meth:`dap.index.reader.Index.to_parquet`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise OptionError("to_parquet needs pyarrow: pip install pyarrow") from error
    vectors = pa.list_(pa.float32(), index.spec.feature_shape[0])
    columns = [("class", pa.string()), ("label", pa.int64()), ("id", pa.string())]
    schema = pa.schema([*columns, *((tensor_name(t), vectors) for t in index.timesteps)])
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with pq.ParquetWriter(temporary, schema) as writer:
            for each in index.classes:
                ids = index.ids(each.name)
                features = [index.features(each.name, t) for t in index.timesteps]
                for start in range(0, each.rows, ROWS):
                    part = ids[start : start + ROWS]
                    rows = [np.ravel(array[start : start + ROWS]).astype(np.float32) for array in features]
                    arrays = [pa.FixedSizeListArray.from_arrays(pa.array(values), type=vectors) for values in rows]
                    named = [[_utf8(each.name)] * len(part), [each.label] * len(part), [*map(_utf8, part)]]
                    writer.write_table(pa.table([*named, *arrays], schema=schema))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _utf8(text: str) -> str:
    """A name without lone surrogates, which Parquet refuses: each becomes a backslash and its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
