"""Features of a class read from an index into a torch tensor, beside a copy of the same bytes in memory (the limit).

The file is in the page cache, since it was just written: the way from there is measured, not the disk.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from turns import Contender, Group

from dap.index import ClassRows, IndexSpec, IndexWriter, open_index

NAME, TIMESTEP = "class", 100


def groups(quick: bool) -> list[Group]:
    sizes = [(2_000, 384)] if quick else [(100_000, 384), (1_300, 1_152)]
    contenders = {
        "dap": Contender(lambda data: data.target.copy_(torch.from_numpy(data.index.features(NAME, TIMESTEP))), "dap"),
        "dap, opened anew": Contender(opened_anew, "beside"),
        "numpy.load, mapped": Contender(by_numpy),
        "safetensors": Contender(by_safetensors),
        "torch copy in memory": Contender(lambda data: data.target.copy_(data.rows), "limit"),
    }
    return [
        Group(
            f"index read to torch, {rows:,} × {columns:,}, float16", partial(Stored, rows, columns), contenders, check
        )
        for rows, columns in sizes
    ]


def test_index(take_turns, group, contender):
    take_turns(group, contender)


class Stored:
    """The same float16 rows in memory, in an index, in a .npy file and in a .safetensors file."""

    def __init__(self, rows: int, columns: int) -> None:
        from safetensors.torch import save_file

        features = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32).astype(np.float16)
        self.rows, self.target = torch.from_numpy(features), torch.empty(rows, columns, dtype=torch.half)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        np.save(self.path / "rows.npy", features)
        save_file({"rows": self.rows}, self.path / "rows.safetensors")
        spec = IndexSpec(
            source={"name": "bench", "identity": "0" * 64}, prior="0" * 64, block=1, pooling="mean",
            timesteps=(TIMESTEP,), feature_shape=(columns,), latent_shape=(1, 1, 1), scheduler=None,
            num_inference_steps=1,
        )  # fmt: skip
        writer = IndexWriter(self.path / "index", spec, [ClassRows(NAME, 0, tuple(map(str, range(rows))))])
        for start, stop in writer.pending(NAME):
            writer.write(NAME, start, np.zeros((stop - start, 1, 1, 1)), {TIMESTEP: features[start:stop]})
        self.index = writer.finish()


def opened_anew(data: Stored) -> torch.Tensor:
    return data.target.copy_(torch.from_numpy(open_index(data.index.path).features(NAME, TIMESTEP)))


def by_numpy(data: Stored) -> torch.Tensor:
    return data.target.copy_(torch.from_numpy(np.load(data.path / "rows.npy", mmap_mode="c")))


def by_safetensors(data: Stored) -> torch.Tensor:
    from safetensors.torch import load_file

    return data.target.copy_(load_file(data.path / "rows.safetensors")["rows"])


def check(data: Stored, result: torch.Tensor, rtol: float) -> None:
    if not torch.equal(result, data.rows):
        raise ValueError(f"rows off by up to {(result - data.rows).abs().max():.1e}")
    result.zero_()
