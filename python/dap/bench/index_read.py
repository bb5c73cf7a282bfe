"""A class's view of the feature index as a source of tensors, beside a plain copy of the same bytes in memory.

The file is in the page cache, since it was just written: what is measured is the way from there, not the disk.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dap.bench.race import Contender
from dap.index import ClassRows, Index, IndexSpec, IndexWriter, open_index

__all__ = ["index_read"]

NAME, TIMESTEP = "class", 100


def index_read(rows: int, columns: int) -> tuple[list[Contender], Callable[[Any, float], None]]:
    """Contenders that fill a float16 tensor with the rows, and the check of what they filled it with.

    Example:
        >>> contenders, check = index_read(300, 4)
        >>> [contender.name for contender in contenders], check(contenders[0].call(), 0.0)
        (['dap', 'dap, mapped anew', 'torch copy in memory'], None)
    """
    features = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32).astype(np.float16)
    index, memory, target = _written(features), torch.from_numpy(features), torch.empty(rows, columns, dtype=torch.half)

    def check(result: Any, rtol: float) -> None:
        if not torch.equal(result, memory):
            raise ValueError(f"rows off by up to {(result - memory).abs().max():.1e}")

    def mapped_anew() -> Any:
        return target.copy_(torch.from_numpy(open_index(index.path).features(NAME, TIMESTEP)))

    return [
        Contender("dap", lambda: target.copy_(torch.from_numpy(index.features(NAME, TIMESTEP))), "dap"),
        Contender("dap, mapped anew", mapped_anew, "beside"),
        Contender("torch copy in memory", lambda: target.copy_(memory)),
    ], check


def _written(features: Any) -> Index:
    """An index with these rows, in a temporary folder that goes when it does."""
    folder = tempfile.mkdtemp()
    spec = IndexSpec(
        source={"name": "bench", "identity": "0" * 64}, prior="0" * 64, block=1, pooling="mean", timesteps=(TIMESTEP,),
        feature_shape=features.shape[1:], latent_shape=(1, 1, 1), scheduler=None, num_inference_steps=1,
    )  # fmt: skip
    writer = IndexWriter(Path(folder) / "index", spec, [ClassRows(NAME, 0, tuple(map(str, range(len(features)))))])
    for start, stop in writer.pending(NAME):
        writer.write(NAME, start, np.zeros((stop - start, 1, 1, 1)), {TIMESTEP: features[start:stop]})
    index = writer.finish()
    weakref.finalize(index, shutil.rmtree, folder)
    return index
