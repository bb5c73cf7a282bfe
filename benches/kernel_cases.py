"""Which kernel reductions are measured, on which rows, and what is a right answer."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from turns import named

from dap import kernels as K

NEIGHBOURS = 10
STEP = (100, 1_300, 1_152)
"""One guided step of DiT-XL/2: the slots of a batch, the images of an ImageNet class, the features of a block."""


@dataclass(frozen=True)
class Case:
    """One reduction at one size: ``x`` has shape (n, d), ``y`` shape (m, d)."""

    kernel: str
    reduction: str
    n: int
    m: int
    d: int
    dtype: str = "float32"

    def __str__(self) -> str:
        dtype = "" if self.dtype == "float32" else f", {self.dtype}"
        return named(f"{self.reduction} {self.kernel}", f"{self.n:,} × {self.m:,} × {self.d:,}{dtype}")

    @property
    def bandwidth(self) -> float:
        """σ: about the mean distance of two rows, ‖·‖₂ or for the Laplacian ‖·‖₁."""
        return 2 * self.d / math.sqrt(math.pi) if self.kernel == "laplacian" else math.sqrt(2 * self.d)

    @property
    def dap_kernel(self) -> K.Kernel | None:
        """The kernel as dap has it; None for Euclidean distances."""
        if self.kernel == "euclidean":
            return None
        rule = self.kernel in ("rbf", "laplacian", "exponential", "matern", "rational_quadratic")
        return K.by_name(self.kernel, **({"bandwidth": self.bandwidth} if rule else {}))

    @property
    def of_whole_sets(self) -> bool:
        """Whether the result is one number for both sets."""
        return self.reduction in ("mmd2", "energy_distance")


@dataclass
class Rows:
    """What all contenders of a case start from; y is moved for MMD², which is else zero."""

    case: Case

    def __post_init__(self) -> None:
        random, dtype = np.random.default_rng(0), getattr(torch, self.case.dtype)
        x = random.standard_normal((self.case.n, self.case.d), dtype=np.float32)
        y = random.standard_normal((self.case.m, self.case.d), dtype=np.float32)
        if self.case.of_whole_sets:
            y += np.float32(0.5)
        self.x, self.y = torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype)
        self.accepted: torch.Tensor | None = None

    @functools.cached_property
    def copies(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows in float32."""
        return self.x.float(), self.y.float()

    @functools.cached_property
    def sample(self) -> torch.Tensor:
        """Rows of x whose results are compared with those in float64."""
        count = 64 if self.case.m * self.case.d < 10**7 else 4
        return torch.arange(self.case.n) if self.case.of_whole_sets else torch.arange(count) * self.case.n // count

    @functools.cached_property
    def expected(self) -> torch.Tensor:
        result = reduce(self.case, self.x[self.sample].double(), self.y.double(), "torch")
        return torch.as_tensor(result[0] if self.case.reduction == "nearest" else result)


def reduce(case: Case, x: torch.Tensor, y: torch.Tensor, backend: str):
    """Return the result of a case by one of dap's backends; for ``nearest`` distances and indices."""
    if case.reduction == "nearest":
        return K.nearest(x, y, NEIGHBOURS, backend=backend)
    if case.reduction == "energy_distance":
        return K.energy_distance(x, y, backend)
    return getattr(K, case.reduction)(x, y, case.dap_kernel, backend)


def check(rows: Rows, result, rtol: float) -> None:
    """Raise ValueError unless the result is that in float64 on a sample, and the first accepted one everywhere."""
    case = rows.case
    if case.reduction == "nearest":
        result, indices = result
        # Two rows at nearly one distance may change places: what an index points at is compared, not the index.
        x, y = rows.x[rows.sample].double(), rows.y.double()
        chosen = y[torch.as_tensor(indices)[rows.sample]]
        _compare("rows at the indices", (chosen - x[:, None]).norm(dim=2), rows.expected, rtol)
    values = torch.as_tensor(result).double()
    if case.of_whole_sets:
        return _compare("result", values, rows.expected, rtol)
    if len(values) != case.n:
        raise ValueError(f"expected {case.n} rows, got shape {tuple(values.shape)}")
    _compare("result", values[rows.sample], rows.expected, rtol)
    if rows.accepted is None:
        rows.accepted = values
    return _compare("result beside the others'", values, rows.accepted, rtol)


def _compare(what: str, got: torch.Tensor, expected: torch.Tensor, rtol: float) -> None:
    if got.shape != expected.shape:
        raise ValueError(f"{what}: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}")
    # Linear and polynomial means may be near zero: there the error is one of the largest value.
    size = expected.abs().clamp_min(0.1 * float(expected.abs().max()))
    error = float(((got - expected).abs() / size).max())
    if not error <= rtol:
        raise ValueError(f"{what}: off by {error:.1e} of the value, more than {rtol:.0e}")


def list_cases(quick: bool) -> list[Case]:
    """Return every kernel at the size of a guided step, then the sizes of a class, of metrics and of large sets."""
    if quick:
        step, square, many, few, images, widths = (20, 130, 72), 100, 300, 200, 2_000, (8, 24, 72)
    else:
        step, square, many, few, images, widths = STEP, 1_300, 20_000, 2_000, 50_000, (64, 384, 1_152)
    names = [name for name in K.list_kernels() if name != "sum"]
    means = Case("rbf", "row_means", many, few, widths[1])
    cases = [
        *(Case(name, reduction, *step) for name in names for reduction in ("row_means", "mean_distance")),
        Case("rbf", "gram", *step),
        Case("euclidean", "nearest", *step),
        Case("rbf", "mmd2", square, square, widths[2]),
        Case("distance", "energy_distance", square, square, widths[2]),
        Case("euclidean", "nearest", 100, images, 2_048 if not quick else 64),
        *(dataclasses.replace(means, kernel=kernel, d=d) for kernel in ("rbf", "laplacian") for d in widths),
        dataclasses.replace(means, dtype="float16"),
        dataclasses.replace(means, dtype="bfloat16"),
        dataclasses.replace(means, kernel="linear", reduction="mean_distance"),
        dataclasses.replace(means, kernel="euclidean", reduction="nearest", d=widths[0]),
        Case("rbf", "mmd2", 2 * few, 2 * few, widths[1]),
    ]
    return cases
