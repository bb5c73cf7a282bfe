"""torch as a rival: products in place and in chunks, ``torch.compile``, ``torch.cdist``, its own half precision.

Each maker returns ``{name: f(x, y)}`` for a case: f gives the sums over y of exp(−‖x−y‖²/2σ²), of exp(−‖x−y‖₁/σ) or
of ‖x−y‖, shape (n,); for ``nearest`` the distances and indices, both (n, k). Inputs are float32 unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from dap.bench.cases import NEIGHBOURS, Case

__all__ = ["cdist", "chunked", "compiled", "half"]

CHUNKS = (256, 1024, 4096)
_CHUNKS_COMPILED = (250, 1000, 4000)  # they divide the sizes: a last chunk of its own shape would be compiled too

Reduce = Callable[[torch.Tensor, torch.Tensor], Any]


def chunked(case: Case) -> dict[str, Reduce]:
    """One product for each chunk of x into one buffer, with both norms added, and all else in place."""
    if case.kernel == "laplacian":
        return {}  # no product gives ‖·‖₁
    return {f"torch, chunk {chunk:,}": _in_chunks(case, chunk) for chunk in CHUNKS}


def half(case: Case) -> dict[str, Reduce]:
    """The same in the arithmetic of x and y, whatever their dtype; the sums in float32."""
    return {f"torch, in {case.dtype}": _in_chunks(case, 1024)}


def _in_chunks(case: Case, chunk: int) -> Reduce:
    factor = -0.5 / case.bandwidth**2 if case.kernel == "rbf" else 1.0

    def nearest(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = [block.topk(NEIGHBOURS, largest=False) for _, block in _squared(x, y, factor, chunk)]
        return torch.cat([values for values, _ in found]).clamp_min_(0).sqrt_(), torch.cat(
            [index for _, index in found]
        )

    def sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(x))
        for rows, block in _squared(x, y, factor, chunk):
            block = block.exp_() if case.kernel == "rbf" else block.clamp_min_(0).sqrt_()
            torch.sum(block, 1, dtype=torch.float32, out=out[rows])
        return out

    return nearest if case.reduction == "nearest" else sums


def _squared(x: torch.Tensor, y: torch.Tensor, factor: float, chunk: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields factor · ‖x − y‖² for one chunk of x after the other, in a buffer that the next chunk overwrites."""
    x_part, y_part = x.square().sum(1, keepdim=True).mul_(factor), y.square().sum(1).mul_(factor)
    buffer = x.new_empty(min(chunk, len(x)), len(y))
    for start in range(0, len(x), chunk):
        rows = slice(start, min(start + chunk, len(x)))
        block = torch.add(x_part[rows], y_part, out=buffer[: rows.stop - start])
        yield rows, block.addmm_(x[rows], y.T, alpha=-2 * factor)


def compiled(case: Case) -> dict[str, Reduce]:
    """The expression as the definition has it, fused by ``torch.compile`` into the product's output; in chunks."""
    if case.reduction == "nearest":
        return {}  # nothing to fuse
    torch.compiler.reset()  # or the shapes of earlier cases count against the limit of recompilations
    if case.kernel == "laplacian":
        return _compiled_laplacian(case.bandwidth)
    factor = -0.5 / case.bandwidth**2 if case.kernel == "rbf" else 1.0

    def block(x: torch.Tensor, x_part: torch.Tensor, y: torch.Tensor, y_part: torch.Tensor) -> torch.Tensor:
        squared = torch.addmm(y_part, x, y.T, alpha=-2 * factor) + x_part
        return (squared.exp() if case.kernel == "rbf" else squared.clamp_min(0).sqrt()).sum(1)

    fused = torch.compile(block, dynamic=False)

    def in_chunks(chunk: int) -> Reduce:
        def sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x_part, y_part = x.square().sum(1, keepdim=True).mul_(factor), y.square().sum(1).mul_(factor)
            parts = zip(x.split(chunk), x_part.split(chunk), strict=True)
            return torch.cat([fused(part, norms, y, y_part) for part, norms in parts])

        return sums

    return {f"torch.compile, chunk {chunk:,}": in_chunks(chunk) for chunk in _CHUNKS_COMPILED}


def _compiled_laplacian(bandwidth: float) -> dict[str, Reduce]:
    """Both orders of the loops: sums along a row of y, or many rows of y at once."""

    def along_rows(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((x[:, None] - y).abs().sum(-1) / -bandwidth).exp().sum(1)

    def across_rows(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((x[:, :, None] - y).abs().sum(1) / -bandwidth).exp().sum(1)

    along, across = torch.compile(along_rows, dynamic=False), torch.compile(across_rows, dynamic=False)
    return {
        "torch.compile, along rows": lambda x, y: torch.cat([along(part, y) for part in x.split(1000)]),
        "torch.compile, across rows": lambda x, y: torch.cat(
            [across(part, y.T.contiguous()) for part in x.split(1000)]
        ),
    }


def cdist(case: Case) -> dict[str, Reduce]:
    """``torch.cdist`` in chunks of 1,024 rows, by products where it can."""

    def distances(x: torch.Tensor, y: torch.Tensor) -> Iterator[torch.Tensor]:
        return (torch.cdist(part, y, p=1 if case.kernel == "laplacian" else 2) for part in x.split(1024))

    def nearest(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = [block.topk(NEIGHBOURS, largest=False) for block in distances(x, y)]
        return torch.cat([values for values, _ in found]), torch.cat([index for _, index in found])

    def sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([value(block).sum(1) for block in distances(x, y)])

    def value(distance: torch.Tensor) -> torch.Tensor:
        if case.kernel == "rbf":
            return distance.square_().mul_(-0.5 / case.bandwidth**2).exp_()
        return distance.div_(-case.bandwidth).exp_() if case.kernel == "laplacian" else distance

    return {"torch.cdist": nearest if case.reduction == "nearest" else sums}
