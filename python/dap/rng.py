"""Seeds and generators derived from what they are used for; dap never draws from global random state.

A seed is the first 63 bits of the SHA-256 of its parts, for example ``(root seed, "sample", class name, slot)``. So the
random numbers of a slot depend neither on its batch nor on the order of work. Generators are always on the CPU, so that
a seed gives the same noise on every device.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["derive_seed", "generator"]


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on all parts and on nothing else.

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
