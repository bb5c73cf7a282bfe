"""The hash that identifies a prior: of its weights and configurations, independent of the file they came from.

To hash the weights of DiT-XL/2 takes seconds. The hash of a prior that was loaded is kept in the cache, beside the
states of its files. A *probe*, which hashes few values of each tensor, tells whether the weights were changed since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dap.priors.schedulers import public
from dap.storage.file_states import FileStates, kept_hash

if TYPE_CHECKING:
    from diffusers import ConfigMixin, ModelMixin, SchedulerMixin

__all__ = ["Origin", "fingerprint", "update_digest"]

RULE = 1  # raise it with every change of the hash, so that those of older versions are not read
PROBED = 64  # values of a tensor

VOLATILE = ("architectures", "dtype", "torch_dtype", "transformers_version")  # entries of transformers' configurations


@dataclass(frozen=True)
class Origin:
    """The files that a prior was loaded from.

    Attributes:
        files: Their states, from before they were read.
        loading: What else the weights depend on, as JSON.
        probe: Of the networks as they were loaded.
    """

    files: FileStates
    loading: Sequence[object]
    probe: str

    def hash(self, probe: str, compute: Callable[[], str]) -> str:
        """Return the hash of the networks with a probe: that in the cache, unless they were changed since."""
        if probe != self.probe:
            return compute()
        packages = [_version(name) for name in ("diffusers", "safetensors", "torch", "transformers")]
        return kept_hash(self.files, ["fingerprint", RULE, packages, *self.loading], compute)


def fingerprint(
    scheduler: SchedulerMixin, networks: Sequence[ModelMixin], learned: Mapping[str, Tensor], *, probe: bool = False
) -> str:
    """Return the SHA-256 in hexadecimal of the weights and configurations of all networks and the scheduler.

    Args:
        scheduler: Scheduler of the pipeline.
        networks: Networks of diffusers or transformers.
        learned: Tensors that were learned later, by name.
        probe: Hash only few values of each tensor, and how often it was changed.
    """
    update = _probe if probe else update_digest
    digest = hashlib.sha256(json.dumps(public(scheduler.config), sort_keys=True, default=str).encode())
    for network in networks:
        digest.update(json.dumps(_described(network.config), sort_keys=True, default=str).encode())
        for key, value in sorted(network.state_dict().items()):
            update(digest, key, value)
    for key, value in learned.items():
        update(digest, key, value)
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


def _probe(digest: hashlib._Hash, key: str, value: object) -> None:
    """Add some values of a tensor, its shape and how often it was changed in place."""
    if type(value) is Tensor and not value.is_quantized:
        digest.update(f"{value._version} {tuple(value.shape)}".encode())
        value = value.reshape(-1)[:: max(1, value.numel() // PROBED)]
    update_digest(digest, key, value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # transformers, for priors that read no text
        return None


def _described(config: ConfigMixin) -> dict[str, object]:
    """Return a configuration without the entries that depend on the file and version that it came from."""
    if isinstance(config, Mapping):  # of diffusers
        return public(config)
    return {key: value for key, value in public(config.to_dict()).items() if key not in VOLATILE}
