"""The tap: the block of the prior at which a feature is taken, and how the block's tokens become one vector.

With T tokens h_1 … h_T of D numbers each, in the order of the rows of an s × s grid over the image:

    mean      (1/T) Σ_t h_t                                                            D numbers
    gridG     the mean of each cell of a G × G grid over the image                     G² · D
    sketchK   Σ over the coordinates a of (h_1, …, h_T) with bucket(a) = j of ±h_a     K, j = 1 … K
    flat      (h_1, …, h_T)                                                            T · D

A sketch keeps inner products: E⟨S x, S y⟩ = ⟨x, y⟩ over its random signs, with a variance of at most 2 ‖x‖² ‖y‖² / K
(Charikar, Chen and Farach-Colton, "Finding frequent items in data streams", ICALP 2002; Weinberger et al., "Feature
hashing for large scale multitask learning", ICML 2009). Its buckets are a random permutation cut into rows of K, so all
have the same size, and its signs are ±1: it takes one pass over the tokens and no matrix. It depends only on T · D and
K, so sketches of different runs and machines can be compared. Tokens of at most K numbers are kept as they are.

The default is a sketch of 1,024 numbers. For DiT-XL/2 that is less than the 1,152 of the mean over tokens, and it keeps
most of the direction of the guidance gradient, which the mean loses (``docs/feature_index.md`` has the measurements).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from dap import rng
from dap.errors import OptionError
from dap.registry import unknown_name_error

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dap.priors import Prior

__all__ = ["DEFAULT_POOLING", "POOLINGS", "Tap", "block_number", "check_block", "default_block"]

DEFAULT_POOLING = "sketch1024"
POOLINGS = ("mean", "flat", "grid2", "sketch256")  # for messages: any whole number may follow grid and sketch
_SIZED = re.compile(r"(grid|sketch)([1-9][0-9]{0,6})")


@dataclass(frozen=True)
class Tap:
    """φ(x_t, t): the hidden state after one block of the denoiser, pooled.

    Attributes:
        block: Number of the block, counted from 1.
        pooling: "mean", "flat", "gridG" such as "grid4", or "sketchK" such as "sketch256"; the module's docstring
            has the formula of each.

    Example:
        >>> import torch
        >>> [Tap(2, pooling).pool(torch.ones(3, 16, 8)).shape[1] for pooling in ("mean", "grid2", "sketch20", "flat")]
        [8, 32, 20, 128]
    """

    block: int
    pooling: str = "mean"

    def __post_init__(self) -> None:
        if self.pooling not in ("mean", "flat") and not _SIZED.fullmatch(self.pooling):
            raise unknown_name_error("pooling", self.pooling, POOLINGS)

    @property
    def blocks(self) -> frozenset[int]:
        """The block as a set, as a term names its taps."""
        return frozenset({self.block})

    def pool(self, tokens: Tensor) -> Tensor:
        """Return one vector for each image, float32 with shape (B, numbers of the pooling).

        Args:
            tokens: With shape (B, T, D).

        Raises:
            OptionError: The tokens do not fit the grid.
        """
        tokens = tokens.float()
        sized = _SIZED.fullmatch(self.pooling)
        if sized is None:
            return tokens.mean(dim=1) if self.pooling == "mean" else tokens.flatten(1)
        size = int(sized[2])
        return _grid(tokens, size) if sized[1] == "grid" else _sketch(tokens.flatten(1), size)


def _grid(tokens: Tensor, cells: int) -> Tensor:
    batch, count, width = tokens.shape
    side = math.isqrt(count)
    if side * side != count or side % cells:
        picture = f"{side} x {side}" if side * side == count else f"{count} in no square"
        raise OptionError(f"pooling: grid{cells} does not divide the prior's tokens, which are {picture}")
    cut = tokens.reshape(batch, cells, side // cells, cells, side // cells, width)
    return cut.mean(dim=(2, 4)).flatten(1)


def _sketch(rows: Tensor, size: int) -> Tensor:
    if size >= rows.shape[1]:
        return rows
    order, signs = _buckets(rows.shape[1], size, rows.device)
    return (rows[:, order] * signs).reshape(len(rows), -1, size).sum(dim=1)


@lru_cache(maxsize=4)
def _buckets(numbers: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a permutation of the coordinates, padded to whole rows of ``size`` by ones of sign 0, and the signs."""
    import torch

    generator = rng.generator("sketch", numbers, size)
    order = torch.randperm(numbers, generator=generator)
    signs = torch.randint(0, 2, (numbers,), generator=generator) * 2.0 - 1.0
    missing = -numbers % size
    order, signs = (torch.cat([values, values.new_zeros(missing)]) for values in (order, signs))
    return order.to(device), signs.to(device)


def default_block(prior: Prior) -> int:
    """Return the block that a prior recommends, or the one at a third of its depth (DAP: 4 to 12 of 28 are best)."""
    return block_number(prior, prior.recommended.get("block") or max(1, round(len(prior.block_names) / 3)))


def check_block(block: object) -> None:
    """Raise unless ``block`` is None, a name or a positive integer.

    Raises:
        OptionError: It is something else.
    """
    if block is not None and not (type(block) is int and block >= 1) and not (isinstance(block, str) and block):
        raise OptionError(f"block: expected a whole number of at least 1, or a block's name, got {block!r}")


def block_number(prior: Prior, block: int | str | None) -> int:
    """Return the number of a block that is given by number or by name, or of the default block for None.

    Raises:
        OptionError: The prior has no such block.
    """
    if isinstance(block, str):
        if block not in prior.block_names:
            raise unknown_name_error("block", block, prior.block_names)
        return prior.block_names.index(block) + 1
    number = default_block(prior) if block is None else block
    if not 1 <= number <= len(prior.block_names):
        raise OptionError(f"block: expected 1 to {len(prior.block_names)}, got {number}")
    return number
