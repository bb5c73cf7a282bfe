"""Names and options of kernels, and the bandwidths that heuristics choose."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from tested_kernels import KERNELS, draw

from dap.errors import OptionError
from dap.kernels import by_name, list_kernels
from dap.kernels.backend_numpy import NUMPY
from dap.kernels.cosine import Cosine
from dap.kernels.exponential import Exponential
from dap.kernels.laplacian import Laplacian
from dap.kernels.linear import Linear
from dap.kernels.matern import Matern
from dap.kernels.rational_quadratic import RationalQuadratic
from dap.kernels.rbf import RBF
from dap.kernels.sum import Sum


def test_kernels_have_names_and_survive_json():
    assert list_kernels() == sorted({kernel.name for kernel in KERNELS})
    heuristics = [RBF(), Laplacian("mean"), Exponential([1, 2.5]), Matern(nu=2.5), Sum([RBF(), Sum([Linear()])])]
    for kernel in [*KERNELS, *heuristics]:
        options = json.loads(json.dumps(dataclasses.asdict(kernel)))
        again = by_name(options.pop("name"), **options)
        assert again == kernel and hash(again) == hash(kernel)
    assert Sum([Sum([RBF(1.0), Linear()]), {"name": "cosine"}]).kernels == (RBF(1.0), Linear(), Cosine())


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", ["median", "mean"])
def test_heuristics_look_at_the_distinct_pairs(name, order, kind):
    y = draw(1, 41, 9, torch.float32, offset=100.0)[1].numpy()
    pairs = [np.linalg.norm(y[i].astype(float) - y[j], ord=order) for i in range(41) for j in range(i)]
    kernel = {1: Laplacian, 2: RBF}[order]
    assert kernel(name).resolve(kind(y)).bandwidth == pytest.approx(getattr(np, name)(pairs), rel=1e-9)


def test_heuristics_look_at_a_thousand_rows_and_are_never_zero():
    y = np.full((2999, 1), 1e6)
    seen = np.array([i * 2999 // 1000 for i in range(1000)])
    y[seen, 0] = np.random.default_rng(0).permutation(1000)
    assert RBF("mean").resolve(y).bandwidth == pytest.approx(1001 / 3)
    for kernel in (RBF, Laplacian):
        for empty in (np.full((9, 4), 0.1), np.ones((1, 4)), np.ones((0, 4)), np.ones((5, 0))):
            assert kernel().resolve(empty).bandwidth == kernel("mean").resolve(empty).bandwidth == 1.0
    for seed in range(30):  # the product leaves a rounding error between some of them
        mostly_equal = np.repeat(np.random.default_rng(seed).standard_normal((2, 57 + seed)), [1, 9], axis=0)
        assert RBF().resolve(mostly_equal).bandwidth == 1.0
    for bad in (np.nan, np.inf, 1e200):
        with pytest.raises(OptionError, match="not finite"):
            RBF().resolve(np.array([[0.0], [bad], [-bad]]))


def test_several_bandwidths_are_the_sum_of_the_kernels():
    y = np.ones((3, 2))
    assert RationalQuadratic(2.0, [1, 3]).resolve(y) == Sum((RationalQuadratic(2.0, 1.0), RationalQuadratic(2.0, 3.0)))
    assert Sum((RBF((1, 2)), RBF(), Linear())).resolve(y) == Sum((RBF(1.0), RBF(2.0), RBF(1.0), Linear()))
    for kernel in (RBF(), RBF([1.0, 2.0]), Laplacian("mean"), Matern()):
        with pytest.raises(OptionError, match=r"kernel.resolve\(y\)"):
            NUMPY.gram(y, y, kernel)


@pytest.mark.parametrize("kind", [RBF, Laplacian, Exponential, RationalQuadratic, Matern])
@pytest.mark.parametrize(
    "bandwidth", [0, -1.0, float("nan"), float("inf"), "modal", None, True, [], [1.0, 0], ["mean"]]
)
def test_a_bad_bandwidth_is_refused(bandwidth, kind):
    with pytest.raises(OptionError, match="bandwidth"):
        kind(bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("polynomial", {"degree": 0}, "degree: expected a whole number of at least 1, got 0"),
        ("polynomial", {"degree": 2.5}, "degree: expected a whole number"),
        ("polynomial", {"degree": True}, "degree: expected a whole number"),
        ("polynomial", {"c": -1.0}, "c: expected a number of at least 0"),
        ("polynomial", {"c": float("nan")}, "c: expected a number of at least 0, got nan"),
        ("inverse_multiquadric", {"c": 0.0}, "c: expected a number above 0"),
        ("rational_quadratic", {"alpha": -2}, "alpha: expected a number above 0"),
        ("matern", {"nu": 0.5}, "nu: expected 1.5 or 2.5, got 0.5"),
        ("sum", {"kernels": []}, "list of one kernel or more"),
        ("sum", {"kernels": Linear()}, "list of one kernel or more"),
        ("sum", {"kernels": [3]}, "kernel: expected a name, a kernel or .*, got 3"),
        ("sum", {"kernels": [{"bandwidth": 1.0}]}, "kernel: expected a name, a kernel or"),
        ("sum", {"kernels": [{"name": "rbff"}]}, "did you mean 'rbf'"),
        ("rbf", {"bandwith": 1.0}, "did you mean 'bandwidth'"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(OptionError, match=message):
        by_name(name, **options)
