"""The feature index as a format: real images' latents and features on disk, by class and timestep.

An index is a folder with ``index.json``, and for each class ``features.safetensors`` (one tensor for each timestep),
``latents.safetensors`` and ``ids.json``; ``docs/feature_index.md`` describes the format in full. Files are mapped into
memory when they are first used, and every field is checked before that: a damaged or hostile file raises one
:class:`~dap.errors.FormatError` that names it.

:func:`open_index` opens an :class:`Index`. An :class:`IndexWriter` writes one, or continues a build that was
killed; :func:`merge` joins the parts that several machines built. Importing this package imports no torch.

    spec = IndexSpec(source={"name": "fashion-mini", "identity": "…"}, prior="…", block=4, pooling="mean", …)
    writer = IndexWriter(out, spec, [ClassRows("Dress", label=3, ids=("train/17", …)), …])
    for rows in writer.classes:
        for start, stop in writer.pending(rows.name):
            writer.write(rows.name, start, latents[start:stop], {t: features_at_t[start:stop], …})
    index = writer.finish()
    index.features("Dress", 980)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dap.index.merge import merge
from dap.index.moments import Moments
from dap.index.reader import Index, IndexClass, open_index
from dap.index.spec import GROUP_ROWS, ClassRows, IndexSpec, index_bytes, row_groups
from dap.index.writer import IndexWriter
from dap.lazy import submodules

__all__ = [
    "GROUP_ROWS", "ClassRows", "Index", "IndexClass", "IndexSpec", "IndexWriter", "Moments", "index_bytes", "merge",
    "open_index", "row_groups",
]  # fmt: skip

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
