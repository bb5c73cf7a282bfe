"""Every random draw in dap comes from a generator that is named by what it is for, never from global state.

A seed is the first 63 bits of the SHA-256 of its parts, for example ``(root seed, "sample", class name, slot)``. So a
slot's randomness depends neither on the batch that it is in nor on the order of work. Generators live on the CPU,
whatever the device: the same seed then gives the same noise everywhere.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["derive_seed", "generator"]


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on every part and on nothing else.

    Example:
        >>> derive_seed(0, "sample", "Dress", 3) == derive_seed(0, "sample", "Dress", 3)
        True
    """
    digest = hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by :func:`derive_seed` of its parts."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*parts))
