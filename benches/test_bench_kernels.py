"""Mean kernel distance of a batch of slots to a class's references: numpy, torch and Rust on the same rows.

Run with ``pytest benches --benchmark-group-by=group``. Rows as the guidance of DiT-XL/2 and the metrics of one ImageNet
class see them: 100 slots, 1,300 references, 1,152 features. All backends get float32 rows; each computes as it does by
default (``torch.get_num_threads()`` threads, one rayon thread a core), and each result is checked.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dap import _core
from dap.kernels import RBF, Linear, mean_distance

SLOTS, REFERENCES, FEATURES = 100, 1300, 1152


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    return tuple(random.standard_normal((count, FEATURES), dtype=np.float32) for count in (SLOTS, REFERENCES))


@pytest.mark.parametrize("backend", ["numpy", "torch", "rust"])
@pytest.mark.parametrize("kernel", [Linear(), RBF(bandwidth=48.0)], ids=lambda kernel: kernel.name)
def test_mean_distance(benchmark, rows, kernel, backend):
    assert _core.build_info()["profile"] == "release", "a debug build measures nothing"
    x, y = (torch.from_numpy(part) for part in rows) if backend == "torch" else rows
    expected = mean_distance(*rows, kernel, "numpy")
    benchmark.group = f"mean_distance {kernel.name} {SLOTS}x{REFERENCES}x{FEATURES}"
    benchmark.extra_info |= _core.build_info() | {"torch_threads": torch.get_num_threads()}
    result = benchmark.pedantic(mean_distance, (x, y, kernel, backend), rounds=3, warmup_rounds=1)
    np.testing.assert_allclose(np.asarray(result), expected, rtol=3e-6)
