"""The hash that says which prior it is: weights and configurations, whatever they were loaded from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dap.priors.schedulers import public

__all__ = ["fingerprint"]


def fingerprint(scheduler: Any, networks: Sequence[Any], beside: Mapping[str, Tensor]) -> str:
    """SHA-256 in hexadecimal of the weights and configurations of all networks and the scheduler.

    Args:
        scheduler: The pipeline's.
        networks: Of diffusers or transformers.
        beside: What the prior knows beyond them, by name.
    """
    digest = hashlib.sha256(json.dumps(public(scheduler.config), sort_keys=True, default=str).encode())
    for network in networks:
        digest.update(json.dumps(_described(network.config), sort_keys=True, default=str).encode())
        for key, value in sorted(network.state_dict().items()):
            _add(digest, key, value)
    for key, value in beside.items():
        _add(digest, key, value)
    return digest.hexdigest()


def _add(digest: Any, key: str, value: Tensor) -> None:
    digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
    digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())


def _described(config: Any) -> dict[str, Any]:
    """A network's configuration without what depends on where and by which version it was saved."""
    if isinstance(config, Mapping):
        return public(config)
    left_out = ("architectures", "dtype", "torch_dtype", "transformers_version")  # of transformers
    return {key: value for key, value in public(config.to_dict()).items() if key not in left_out}
