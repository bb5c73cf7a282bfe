"""The saved state of a training: a file that torch reads without running anything from it."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dap.storage.files import write_atomic

__all__ = ["read_state", "write_state"]


def write_state(path: Path, state: Mapping[str, object]) -> None:
    """Write tensors, numbers, texts, lists and dicts, so that the file is whole or the one before it."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    write_atomic(path, file.getvalue())


def read_state(path: Path) -> dict[str, Any] | None:
    """Return what :func:`write_state` wrote, on the CPU; None if the file is missing or damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError):
        return None
    return state
