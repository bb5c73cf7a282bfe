"""Who takes part in a case: dap and every rival that is installed and has a form of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dap.bench import rivals, rivals_torch
from dap.bench.cases import NEIGHBOURS, Case
from dap.bench.race import Contender
from dap.bench.rivals_torch import Reduce
from dap.kernels import RBF, Laplacian, Linear, backend_rust

__all__ = ["line_up"]

_RIVALS: dict[str, Callable[[Case], dict[str, Reduce]]] = {
    "torch": rivals_torch.chunked,
    "torch.cdist": rivals_torch.cdist,
    "torch.compile": rivals_torch.compiled,
    "numpy": rivals.numpy,
    "scikit-learn": rivals.scikit_learn,
    "SciPy cdist": rivals.scipy,
    "KeOps": rivals.keops,
    "faiss": rivals.faiss,
}
_COMPILING = ("torch.compile", "KeOps")


def line_up(
    case: Case, x: torch.Tensor, y: torch.Tensor, with_compiled: bool = True
) -> tuple[list[Contender], dict[str, str]]:
    """The contenders of a case, ready to be called on its rows, dap first.

    For float16 and bfloat16 rows there are, beside dap on the rows as they are: dap on float32 copies made before, and
    torch in their own arithmetic, to be shown ("beside"); as rivals torch's forms, which make float32 copies first.

    Args:
        case: The case.
        x: Its rows, shape (n, d).
        y: Its rows, shape (m, d).
        with_compiled: Whether torch.compile and KeOps take part, whose compilers need seconds for each size.

    Returns:
        The contenders, and by name the reason of those that cannot take part.
    """
    ready = [Contender("dap", _whole(case, _dap(case), x, y), "dap")]
    missing: dict[str, str] = {}
    makers = _RIVALS
    if x.dtype != torch.float32:
        ready.append(Contender("dap, float32 copies", _whole(case, _dap(case), x.float(), y.float()), "beside"))
        (name, sums), *_ = rivals_torch.half(case).items()
        ready.append(Contender(name, _whole(case, sums, x, y), "beside", rtol=2e-2))
        makers = {"torch": lambda case: {name: _in_float32(sums) for name, sums in rivals_torch.chunked(case).items()}}
    for library, maker in makers.items():
        if library in _COMPILING and not with_compiled:
            missing[library] = "left out: compiling takes longer than all the rest"
            continue
        try:
            calls = {name: _whole(case, reduce, x, y) for name, reduce in maker(case).items()}
            for call in calls.values() if library in _COMPILING else ():
                call()
        except ImportError as error:
            missing[library] = f"{error}: pip install 'dap-distill[bench]'"
            continue
        except Exception as error:
            missing[library] = f"{type(error).__name__}: {error}"
            continue
        ready += [Contender(name, call) for name, call in calls.items()]
    return ready, missing


def _dap(case: Case) -> Reduce:
    """The public reductions of dap in the form of a rival's: sums over y, here on its own threads, K(X, X) by half."""
    kernel = Laplacian(bandwidth=case.bandwidth) if case.kernel == "laplacian" else RBF(bandwidth=case.bandwidth)

    def call(x: Any, y: Any) -> Any:
        if case.reduction == "nearest":
            return backend_rust.nearest(x, y, None, NEIGHBOURS, threads=case.threads)
        if case.reduction == "mean_distance":
            return backend_rust.mean_distance(x, y, Linear(), threads=case.threads) * case.m
        return backend_rust.row_sums(x, None if y is x else y, kernel, threads=case.threads)

    return call


def _whole(case: Case, reduce: Reduce, x: torch.Tensor, y: torch.Tensor) -> Callable[[], Any]:
    """The case's result, made of the sums over y."""

    def mean_within(rows: torch.Tensor) -> float:
        count = len(rows)
        return (float(reduce(rows, rows).sum()) - count) / (count * (count - 1))  # the diagonal is 1

    if case.reduction == "nearest":
        return lambda: reduce(x, y)
    if case.reduction == "mmd2":
        return lambda: mean_within(x) + mean_within(y) - 2 * float(reduce(x, y).sum()) / (case.n * case.m)
    return lambda: reduce(x, y) / case.m


def _in_float32(reduce: Reduce) -> Reduce:
    return lambda x, y: reduce(x.float(), y.float())
