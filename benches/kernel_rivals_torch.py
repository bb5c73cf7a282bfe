"""torch as a rival: products in place and in chunks, ``torch.compile``, ``torch.cdist``, its own half precision.

Each function returns ``{name: f(x, y)}`` for a case: f gives the sums over y of exp(−‖x−y‖²/2σ²), of exp(−‖x−y‖₁/σ) or
of ‖x−y‖, shape (n,); for ``nearest`` distances and indices, both (n, k). Without a form for the case it returns {}.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from kernel_cases import NEIGHBOURS, Case

Reduce = Callable[[torch.Tensor, torch.Tensor], Any]

CHUNKS = (256, 1024, 4096)


def chunked(case: Case) -> dict[str, Reduce]:
    """One product for each chunk of x into one buffer, with both norms added, and all else in place."""
    if case.kernel == "laplacian":
        return {}  # no product gives ‖·‖₁
    return {f"torch, chunk {chunk:,}": _in_chunks(case, chunk) for chunk in CHUNKS}


def half(case: Case) -> dict[str, Reduce]:
    """The same in the arithmetic of the rows, float16 or bfloat16; the sums in float32."""
    return {f"torch, in {case.dtype}": _in_chunks(case, 1024)}


def _in_chunks(case: Case, chunk: int) -> Reduce:
    factor = -0.5 / case.bandwidth**2 if case.kernel == "rbf" else 1.0

    def squared(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        x_part, y_part = x.square().sum(1, keepdim=True).mul_(factor), y.square().sum(1).mul_(factor)
        buffer = x.new_empty(min(chunk, len(x)), len(y))
        for start in range(0, len(x), chunk):
            rows = slice(start, min(start + chunk, len(x)))
            block = torch.add(x_part[rows], y_part, out=buffer[: rows.stop - start])
            yield rows, block.addmm_(x[rows], y.T, alpha=-2 * factor)

    def nearest(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = [block.topk(NEIGHBOURS, largest=False) for _, block in squared(x, y)]
        values, indices = (torch.cat(part) for part in zip(*blocks, strict=True))
        return values.clamp_min_(0).sqrt_(), indices

    def sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(x))
        for rows, block in squared(x, y):
            block = block.exp_() if case.kernel == "rbf" else block.clamp_min_(0).sqrt_()
            torch.sum(block, 1, dtype=torch.float32, out=out[rows])
        return out

    return nearest if case.reduction == "nearest" else sums


def compiled(case: Case) -> dict[str, Reduce]:
    """The expression as the definition has it, fused by ``torch.compile`` into the product's output; in chunks."""
    if case.reduction == "nearest":
        return {}  # nothing to fuse
    factor = -0.5 / case.bandwidth**2 if case.kernel == "rbf" else 1.0

    def block(x: torch.Tensor, x_part: torch.Tensor, y: torch.Tensor, y_part: torch.Tensor) -> torch.Tensor:
        squared = torch.addmm(y_part, x, y.T, alpha=-2 * factor) + x_part
        return (squared.exp() if case.kernel == "rbf" else squared.clamp_min(0).sqrt()).sum(1)

    def by_products(fused: Callable[..., torch.Tensor]) -> Reduce:
        def sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x_part, y_part = x.square().sum(1, keepdim=True).mul_(factor), y.square().sum(1).mul_(factor)
            parts = zip(x.split(1000), x_part.split(1000), strict=True)
            return torch.cat([fused(part, norms, y, y_part) for part, norms in parts])

        return sums

    def along_rows(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((x[:, None] - y).abs().sum(-1) / -case.bandwidth).exp().sum(1)

    def across_rows(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((x[:, :, None] - y).abs().sum(1) / -case.bandwidth).exp().sum(1)

    if case.kernel != "laplacian":
        return {"torch.compile": by_products(_fused(block))}
    along, across = _fused(along_rows), _fused(across_rows)
    return {
        "torch.compile, along rows": lambda x, y: torch.cat([along(part, y) for part in x.split(1000)]),
        "torch.compile, across rows": lambda x, y: torch.cat(
            [across(part, y.T.contiguous()) for part in x.split(1000)]
        ),
    }


def _fused(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Compile at the first call: a group whose contenders are not asked for compiles nothing."""
    if not (shutil.which("c++") or shutil.which("g++")):

        def missing(*arguments: object) -> torch.Tensor:
            raise ImportError("torch.compile needs a C++ compiler")

        return missing
    return torch.compile(function, dynamic=False)


def cdist(case: Case) -> dict[str, Reduce]:
    """``torch.cdist`` in chunks of 1,024 rows, by products where it can."""

    def distances(x: torch.Tensor, y: torch.Tensor) -> Iterator[torch.Tensor]:
        return (torch.cdist(part, y, p=1 if case.kernel == "laplacian" else 2) for part in x.split(1024))

    def nearest(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        blocks = [block.topk(NEIGHBOURS, largest=False) for block in distances(x, y)]
        return tuple(torch.cat(part) for part in zip(*blocks, strict=True))

    def value(distance: torch.Tensor) -> torch.Tensor:
        if case.kernel == "rbf":
            return distance.square_().mul_(-0.5 / case.bandwidth**2).exp_()
        return distance.div_(-case.bandwidth).exp_() if case.kernel == "laplacian" else distance

    def sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([value(block).sum(1) for block in distances(x, y)])

    return {"torch.cdist": nearest if case.reduction == "nearest" else sums}
