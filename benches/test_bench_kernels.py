"""Kernel reductions by numpy, torch and Rust on the same rows, at the sizes of guidance and of a class's metrics.

``dap bench kernels`` has the large sizes and the rivals from elsewhere; README.md in this folder says how to run both.
All backends get float32 rows and compute as they do by default: ``torch.get_num_threads()`` threads, or in Rust one a
core; numpy is the float64 definition. Each result is checked.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dap import _core
from dap import kernels as K

SLOTS, REFERENCES, FEATURES = 100, 1300, 1152
"""One guided step of DiT-XL/2: the slots of a batch, the images of an ImageNet class, the features of a block."""

CASES = {
    "mean_distance linear": (lambda x, y, backend: K.mean_distance(x, y, K.Linear(), backend), REFERENCES),
    "mean_distance rbf": (lambda x, y, backend: K.mean_distance(x, y, K.RBF(bandwidth=48.0), backend), REFERENCES),
    "row_means rbf": (lambda x, y, backend: K.row_means(x, y, K.RBF(bandwidth=48.0), backend), REFERENCES),
    "row_means laplacian": (
        lambda x, y, backend: K.row_means(x, y, K.Laplacian(bandwidth=1300.0), backend),
        REFERENCES,
    ),
    "mmd2 rbf": (lambda x, y, backend: K.mmd2(x, y + 0.1, K.RBF(bandwidth=48.0), backend), SLOTS),
    "energy_distance": (lambda x, y, backend: K.energy_distance(x, y + 0.1, backend), SLOTS),
    "nearest": (lambda x, y, backend: K.nearest(x, y, k=10, backend=backend)[0], REFERENCES),
}


@pytest.mark.parametrize("backend", ["numpy", "torch", "rust"])
@pytest.mark.parametrize("case", CASES)
def test_reduction(benchmark, case, backend):
    assert _core.build_info()["profile"] == "release", "a debug build measures nothing"
    call, m = CASES[case]
    random = np.random.default_rng(0)
    rows = tuple(random.standard_normal((count, FEATURES), dtype=np.float32) for count in (SLOTS, m))
    x, y = (torch.from_numpy(part) for part in rows) if backend == "torch" else rows
    expected = call(*rows, "numpy")
    benchmark.group = f"{case} {SLOTS} × {m} × {FEATURES}"
    benchmark.extra_info |= _core.build_info() | {"torch_threads": torch.get_num_threads()}
    result = benchmark.pedantic(call, (x, y, backend), rounds=3, warmup_rounds=1)
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-4)
