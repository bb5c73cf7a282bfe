"""Kernel reductions by dap's backends, torch, numpy, scikit-learn, SciPy, KeOps and faiss.

The limit is the product alone: of the same rows, by torch's or numpy's SGEMM, into one buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import kernel_rivals
import kernel_rivals_torch
import numpy as np
import torch
from kernel_cases import Case, Rows, check, list_cases, reduce
from kernel_rivals_torch import Reduce
from turns import Contender, Group

CHUNK = 1024


def groups(quick: bool) -> list[Group]:
    return [Group(str(case), partial(Rows, case), contenders(case, quick), check) for case in list_cases(quick)]


def test_reduction(take_turns, group, contender):
    take_turns(group, contender)


def contenders(case: Case, quick: bool) -> dict[str, Contender]:
    made = {"dap rust": Contender(lambda rows: reduce(case, rows.x, rows.y, "rust"), "dap")}
    pairs = case.n * case.m * case.d
    if case.kernel != "laplacian" or pairs < 3e9:
        made["dap torch"] = Contender(lambda rows: reduce(case, rows.x, rows.y, "torch"), "beside")
    if pairs < 2e8 and case.dtype == "float32":  # the definition, a row at a time in float64
        made["dap numpy"] = Contender(lambda rows: reduce(case, rows.x, rows.y, "numpy"), "beside")
    if case.dtype != "float32":
        made["dap rust, float32 copies"] = Contender(lambda rows: reduce(case, *rows.copies, "rust"), "beside")
        for name, sums in kernel_rivals_torch.half(case).items():
            made[name] = Contender(_whole(case, sums), "beside", rtol=2e-2)
    for name, sums in _rivals(case, quick).items():
        made[name] = Contender(_whole(case, lambda x, y, sums=sums: sums(x.float(), y.float())))
    if case.kernel != "laplacian":
        made["torch product"] = Contender(lambda rows: _by_torch(*rows.copies, _products(case)), "limit")
        made["numpy product"] = Contender(lambda rows: _by_numpy(*rows.copies, _products(case)), "limit")
    return made


def _rivals(case: Case, quick: bool) -> dict[str, Reduce]:
    """Forms exist of the sums of the RBF and Laplacian kernels, of the mean distance, and of nearest rows."""
    sums = case.kernel in ("rbf", "laplacian") and case.reduction in ("row_means", "mmd2")
    if not (sums or case.reduction == "nearest" or (case.kernel, case.reduction) == ("linear", "mean_distance")):
        return {}
    makers = [kernel_rivals_torch.chunked]
    if case.dtype == "float32":
        makers += [kernel_rivals.numpy, kernel_rivals.faiss]
    if case.dtype == "float32" and (case.kernel != "laplacian" or case.d <= 64):  # else 10 to 25 times dap's time
        makers += [kernel_rivals_torch.cdist, kernel_rivals.scikit_learn, kernel_rivals.scipy]
    if case.dtype == "float32" and case.n > 1_300 and not quick:  # each compiles for seconds
        makers += [kernel_rivals_torch.compiled, kernel_rivals.keops]
    return {name: form for maker in makers for name, form in maker(case).items()}


def _whole(case: Case, sums: Reduce) -> Callable[[Rows], object]:
    """The case's result, made of the sums over y."""

    def mean_within(rows: torch.Tensor) -> float:
        return (float(sums(rows, rows).sum()) - len(rows)) / (len(rows) * (len(rows) - 1))  # the diagonal is 1

    def mmd2(x: torch.Tensor, y: torch.Tensor) -> float:
        return mean_within(x) + mean_within(y) - 2 * float(sums(x, y).sum()) / (case.n * case.m)

    if case.reduction == "nearest":
        return lambda rows: sums(rows.x, rows.y)
    if case.reduction == "mmd2":
        return lambda rows: mmd2(rows.x, rows.y)
    return lambda rows: sums(rows.x, rows.y) / case.m


def _products(case: Case) -> int:
    """Of x and y: one, and for the statistics of two sets as much again, half of each set's product with itself."""
    return 2 if case.of_whole_sets else 1


def _by_torch(x: torch.Tensor, y: torch.Tensor, times: int) -> None:
    buffer = torch.empty(min(CHUNK, len(x)), len(y))
    for part in x.split(CHUNK) * times:
        torch.mm(part, y.T, out=buffer[: len(part)])


def _by_numpy(x: torch.Tensor, y: torch.Tensor, times: int) -> None:
    buffer = np.empty((min(CHUNK, len(x)), len(y)), np.float32)
    for part in x.split(CHUNK) * times:
        np.matmul(part.numpy(), y.numpy().T, out=buffer[: len(part)])
