"""The hash that identifies a prior: of its weights and configurations, independent of the file they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dap.priors.schedulers import public

if TYPE_CHECKING:
    from diffusers import ConfigMixin, ModelMixin, SchedulerMixin

__all__ = ["fingerprint", "update_digest"]

VOLATILE = ("architectures", "dtype", "torch_dtype", "transformers_version")  # entries of transformers' configurations


def fingerprint(scheduler: SchedulerMixin, networks: Sequence[ModelMixin], learned: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 in hexadecimal of the weights and configurations of all networks and the scheduler.

    Args:
        scheduler: Scheduler of the pipeline.
        networks: Networks of diffusers or transformers.
        learned: Tensors that were learned later, by name.
    """
    digest = hashlib.sha256(json.dumps(public(scheduler.config), sort_keys=True, default=str).encode())
    for network in networks:
        digest.update(json.dumps(_described(network.config), sort_keys=True, default=str).encode())
        for key, value in sorted(network.state_dict().items()):
            update_digest(digest, key, value)
    for key, value in learned.items():
        update_digest(digest, key, value)
    return digest.hexdigest()


def update_digest(digest: hashlib._Hash, key: str, value: object) -> None:
    """Add an entry of a network's state: a tensor, or, of quantised layers, tuples, dtypes and other plain values."""
    if isinstance(value, tuple | list):
        for number, entry in enumerate(value):
            update_digest(digest, f"{key}[{number}]", entry)
        return
    if not isinstance(value, Tensor):
        digest.update(f"{key} {value!r}".encode())
        return
    if value.is_quantized:
        digest.update(f"{key} {value.dtype}".encode())
        value = value.dequantize()
    digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _described(config: ConfigMixin) -> dict[str, object]:
    """Return a configuration without the entries that depend on the file and version that it came from."""
    if isinstance(config, Mapping):  # of diffusers
        return public(config)
    return {key: value for key, value in public(config.to_dict()).items() if key not in VOLATILE}
