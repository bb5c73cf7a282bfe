"""torch as a rival: products in place and in chunks, ``torch.compile``, ``torch.cdist``, its own half precision.

Each function returns ``{name: f(x, y)}`` for a case: f gives the sums over y of exp(−‖x−y‖²/2σ²), of exp(−‖x−y‖₁/σ) or
of ‖x−y‖, shape (n,); for ``nearest`` distances and indices, both (n, k). Without a form for the case it returns {}.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from kernel_cases import NEIGHBOURS, Case
from torch import Tensor

Reduce = Callable[[Tensor, Tensor], Any]


def chunked(case: Case) -> dict[str, Reduce]:
    """One product for each chunk of x into one buffer, with both norms added, and all else in place."""
    if case.kernel == "laplacian":
        return {}  # no product gives ‖·‖₁
    return {f"torch, chunk {chunk:,}": _in_chunks(case, chunk) for chunk in (256, 1024, 4096)}


def half(case: Case) -> dict[str, Reduce]:
    """The same in the arithmetic of the rows, float16 or bfloat16; the sums in float32."""
    return {f"torch, in {case.dtype}": _in_chunks(case, 1024)}


def _in_chunks(case: Case, chunk: int) -> Reduce:
    factor = -0.5 / case.bandwidth**2 if case.kernel == "rbf" else 1.0

    def squared(x: Tensor, y: Tensor) -> Iterator[Tensor]:
        x_part, y_part = x.square().sum(1, keepdim=True).mul_(factor), y.square().sum(1).mul_(factor)
        buffer = x.new_empty(min(chunk, len(x)), len(y))
        for rows, norms in zip(x.split(chunk), x_part.split(chunk), strict=True):
            yield torch.add(norms, y_part, out=buffer[: len(rows)]).addmm_(rows, y.T, alpha=-2 * factor)

    def sums(x: Tensor, y: Tensor) -> Tensor:
        blocks = (block.exp_() if case.kernel == "rbf" else block.clamp_min_(0).sqrt_() for block in squared(x, y))
        return torch.cat([block.sum(1, dtype=torch.float32) for block in blocks])

    def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = _smallest(squared(x, y))
        return values.clamp_min_(0).sqrt_(), indices

    return nearest if case.reduction == "nearest" else sums


def _smallest(blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    pairs = [block.topk(NEIGHBOURS, largest=False) for block in blocks]
    return torch.cat([values for values, _ in pairs]), torch.cat([indices for _, indices in pairs])


def compiled(case: Case) -> dict[str, Reduce]:
    """The expression as the definition has it, fused by ``torch.compile``, in chunks of 1,000 rows."""

    def by_products(x: Tensor, y: Tensor) -> Tensor:
        squared = torch.addmm(y.square().sum(1), x, y.T, alpha=-2) + x.square().sum(1, keepdim=True)
        return ((squared * (-0.5 / case.bandwidth**2)).exp() if case.kernel == "rbf" else squared.relu().sqrt()).sum(1)

    def along_rows(x: Tensor, y: Tensor) -> Tensor:
        return ((x[:, None] - y).abs().sum(-1) / -case.bandwidth).exp().sum(1)

    def across_rows(x: Tensor, y: Tensor) -> Tensor:
        return ((x[:, :, None] - y.T.contiguous()).abs().sum(1) / -case.bandwidth).exp().sum(1)

    def in_chunks(block: Reduce) -> Reduce:
        fused = torch.compile(block, dynamic=False)

        def call(x: Tensor, y: Tensor) -> Tensor:
            if not (shutil.which("c++") or shutil.which("g++")):
                raise ImportError("torch.compile needs a C++ compiler")
            return torch.cat([fused(part, y) for part in x.split(1000)])

        return call

    if case.kernel == "laplacian":
        forms = {"torch.compile, along rows": along_rows, "torch.compile, across rows": across_rows}
    else:
        forms = {"torch.compile": by_products} if case.reduction != "nearest" else {}  # there nothing is to be fused
    return {name: in_chunks(block) for name, block in forms.items()}


def cdist(case: Case) -> dict[str, Reduce]:
    """``torch.cdist`` in chunks of 1,024 rows, by products where it can."""

    def distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
        return (torch.cdist(part, y, p=1 if case.kernel == "laplacian" else 2) for part in x.split(1024))

    def value(distance: Tensor) -> Tensor:
        if case.kernel == "rbf":
            return distance.square_().mul_(-0.5 / case.bandwidth**2).exp_()
        return distance.div_(-case.bandwidth).exp_() if case.kernel == "laplacian" else distance

    def sums(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([value(block).sum(1) for block in distances(x, y)])

    return {"torch.cdist": (lambda x, y: _smallest(distances(x, y))) if case.reduction == "nearest" else sums}
