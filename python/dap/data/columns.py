"""The columns of images and labels in a table, as in Parquet and Hugging Face ``datasets``. Needs ``pyarrow``."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from dap.config import check_choice
from dap.data.from_labels import check_labels
from dap.data.names import some
from dap.errors import FormatError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["choose_column", "holds_bytes", "holds_labels", "read_labels"]


def choose_column(
    where: object,
    usual_name: str,
    schema: pa.Schema,
    declared: Collection[str],
    fitting: Collection[str],
    chosen: str | None = None,
) -> str:
    """Return the column that was chosen, or else the one called ``usual_name``, or the only one that can be meant.

    Args:
        where: The file or dataset, for the message.
        usual_name: "image" or "label". A column of this name is never passed over for another.
        schema: All columns.
        declared: Columns that the features of ``datasets`` call an image or a class label; they come before others.
        fitting: Columns whose type can be read.
        chosen: The user's choice of a label column, or None.

    Raises:
        OptionError: ``chosen`` is none of ``fitting``.
        SourceError: No column can be meant, or several can.
    """
    if chosen is not None:
        check_choice("label column", chosen, fitting)
        return chosen
    unreadable = usual_name in schema.names and usual_name not in fitting
    for choice in () if unreadable else (declared, fitting):
        if usual_name in choice:
            return usual_name
        if len(choice) == 1:
            return next(iter(choice))
    expected = {"image": "encoded images", "label": "integers, booleans or text"}[usual_name]
    columns = ", ".join(f"{field.name!r} ({field.type})" for field in list(schema)[:10])
    advice = "; choose one with label_column=" if usual_name == "label" and len(fitting) > 1 else ""
    raise SourceError(
        f"{where}: expected a column {usual_name!r}, or exactly one column, of {expected}; found "
        f"{some([*fitting]) or 'none'} in the columns {columns}{advice}"
    )


def holds_bytes(dtype: pa.DataType) -> bool:
    """Return whether a column has encoded images: bytes, or structs with ``bytes``."""
    import pyarrow.types as types

    if types.is_struct(dtype):
        return dtype.get_field_index("bytes") >= 0 and holds_bytes(dtype.field("bytes").type)
    return str(dtype) in ("binary", "large_binary", "binary_view")


def holds_labels(dtype: pa.DataType) -> bool:
    """Return whether a column has integers, booleans or text, also as categories (a dictionary)."""
    import pyarrow.types as types

    if types.is_dictionary(dtype):
        return holds_labels(dtype.value_type)
    return types.is_integer(dtype) or str(dtype) in ("bool", "string", "large_string", "string_view")


def read_labels(where: object, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Return the labels of a column, int64 or text with shape (N,).

    Raises:
        FormatError: A label is missing.
    """
    values = column.to_pylist()
    if missing := values.count(None):
        raise FormatError(f"{where}: {missing} of {len(values)} images have no {name!r}")
    return check_labels(where, values)
