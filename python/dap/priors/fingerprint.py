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

__all__ = ["fingerprint"]

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
            _add(digest, key, value)
    for key, value in learned.items():
        _add(digest, key, value)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, key: str, value: Tensor) -> None:
    digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
    digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _described(config: ConfigMixin) -> dict[str, object]:
    """Return a configuration without the entries that depend on the file and version that it came from."""
    if isinstance(config, Mapping):  # of diffusers
        return public(config)
    return {key: value for key, value in public(config.to_dict()).items() if key not in VOLATILE}
