"""The saved state of a training: a hash, and what torch reads without running anything from it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dap.storage.files import write_atomic

__all__ = ["read_state", "write_state"]

HASH = 32  # bytes of SHA-256


def write_state(path: Path, state: Mapping[str, object]) -> None:
    """Write tensors, numbers, texts, lists and dicts, so that the file is whole or the one before it."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    write_atomic(path, hashlib.sha256(file.getvalue()).digest() + file.getvalue())


def read_state(path: Path) -> dict[str, Any] | None:
    """Return what :func:`write_state` wrote, on the CPU; None if the file is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[HASH:]).digest() != content[:HASH]:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(content[HASH:]), map_location="cpu", weights_only=True)
    return state
