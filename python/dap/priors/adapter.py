"""Adapters: files with what a class-conditional prior learned after its training.

An adapter is a folder with ``dap_adapter.json`` (the prior and the hash of its weights) and ``adapter.safetensors``:
embeddings of new classes, one row for each table of the network, and optionally one of

- low-rank changes of its weights, W + (α / r) · B A (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models",
  ICLR 2022), under PEFT's names;
- the biases, the label table and the scales of DiffFit (:mod:`dap.priors.diff_fit`), for a DiT.

Loading merges the changes into the weights, so that an adapted prior is used like any other.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dap.errors import FormatError, OptionError, SourceError
from dap.priors import BUILTIN
from dap.priors.capabilities import ClassEmbeddingPrior
from dap.priors.diff_fit import merged
from dap.priors.dit import DiTPrior
from dap.priors.pipeline import PipelinePrior
from dap.storage.checked_json import SHA256, TEXT, fields, items, read_json, read_regular, whole
from dap.storage.file_states import FileStates
from dap.storage.files import json_bytes, write_atomic

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from peft.tuners.tuners_utils import BaseTunerLayer

    from dap.priors.base import Prior

__all__ = [
    "ADAPTER", "WEIGHTS", "adapter_files", "add_low_rank", "is_adapter", "load_adapted", "merge_low_rank",
    "require_peft", "without_low_rank", "write_adapter",
]  # fmt: skip

ADAPTER, WEIGHTS = "dap_adapter.json", "adapter.safetensors"
RECORD = fields({"prior": TEXT, "sha256": SHA256, "classes": items(TEXT), "rank": whole(0, 2**16)})
MAX_WEIGHTS = 2**34  # bytes
CLASS, LOW_RANK, DIFF_FIT = "class ", "lora ", "difffit "  # before the names of the kinds of tensors


def is_adapter(folder: str | Path) -> bool:
    """Return whether a folder holds an adapter."""
    return os.path.isfile(os.path.join(folder, ADAPTER))


def write_adapter(
    folder: Path, prior: str, sha256: str, learned: Mapping[str, Tensor], low_rank: Mapping[str, Tensor], rank: int
) -> None:
    """Write both files of an adapter with classes into an existing folder; see :func:`adapter_files`."""
    files = adapter_files(prior, sha256, learned=learned, low_rank=low_rank, rank=rank)
    for name in (WEIGHTS, ADAPTER):
        write_atomic(folder / name, files[name])


def adapter_files(
    prior: str,
    sha256: str,
    *,
    learned: Mapping[str, Tensor] | None = None,
    low_rank: Mapping[str, Tensor] | None = None,
    rank: int = 0,
    diff_fit: Mapping[str, Tensor] | None = None,
) -> dict[str, bytes]:
    """Return the content of both files of an adapter, by name.

    Args:
        prior: Name, folder or hub id of the prior that was adapted; a folder is noted with its whole path.
        sha256: Hash of that prior's weights.
        learned: Rows (tables, D) by class name.
        low_rank: A and B under PEFT's names; empty if ``rank`` is 0.
        rank: r, which is also α.
        diff_fit: The values of :class:`dap.priors.diff_fit.DiffFit` by name.
    """
    kinds = {CLASS: learned or {}, LOW_RANK: low_rank or {}, DIFF_FIT: diff_fit or {}}
    tensors = {
        kind + name: values.detach().float().cpu().contiguous()
        for kind, tensors in kinds.items()
        for name, values in tensors.items()
    }
    base = str(Path(prior).resolve()) if prior not in BUILTIN and os.path.isdir(prior) else prior
    record = {"prior": base, "sha256": sha256, "classes": list(learned or {}), "rank": rank}
    return {ADAPTER: json_bytes(record), WEIGHTS: save(tensors)}


def load_adapted(
    folder: str | Path,
    load_base: Callable[[str], Prior],
    *,
    dtype: torch.dtype | None = None,
    vae_dtype: torch.dtype = torch.float32,
) -> Prior:
    """Return the prior of an adapter, with the classes and the weights that it learned.

    Args:
        folder: The adapter's folder.
        load_base: Loads the prior that was adapted, by its name or folder, in float32.
        dtype: In which the networks compute; None: float32.
        vae_dtype: In which the first stage computes.

    Raises:
        FormatError: A file of the adapter is damaged.
        OptionError: The prior is not the one that was adapted.
        SourceError: The prior cannot be loaded.
    """
    folder = Path(folder)
    name, sha256, classes, rank = _record(folder)
    _check_chain(folder)
    states = FileStates.of(folder)
    try:
        tensors = load(read_regular(folder / WEIGHTS, MAX_WEIGHTS))
        learned = {label: tensors[CLASS + label] for label in classes}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise FormatError(f"{folder}: expected {ADAPTER} and {WEIGHTS} as dap writes them ({error!r})") from error
    try:
        base = load_base(name)
    except (OptionError, SourceError) as error:
        raise type(error)(
            f"{folder}: the prior that it adapts cannot be loaded ({error}); {ADAPTER} names it, and takes its "
            "options from this call"
        ) from error
    if not isinstance(base, ClassEmbeddingPrior):
        raise OptionError(f"{folder}: {name!r} has no class embeddings, which an adapter adds to")
    if base.describe()["sha256"] != sha256:
        raise OptionError(f"{folder}: the weights of {name!r} are not those that were adapted; adapt that prior again")
    low_rank, diff_fit = _of_kind(tensors, LOW_RANK), _of_kind(tensors, DIFF_FIT)
    if bool(low_rank) != bool(rank):
        raise FormatError(
            f"{folder}: expected low-rank changes of rank {rank} in {WEIGHTS}, got {len(low_rank)} of them"
        )
    if low_rank:
        parameters = add_low_rank(base.denoiser, rank, seed=0)
        for key, parameter in parameters.items():
            if key not in low_rank or low_rank[key].shape != parameter.shape:
                raise FormatError(f"{folder / WEIGHTS}: expected {key} with shape {tuple(parameter.shape)} in it")
            parameter.data.copy_(low_rank[key])
        merge_low_rank(base.denoiser)
    if diff_fit:
        if not isinstance(base, DiTPrior):
            raise OptionError(f"{folder}: its scales and biases are those of a DiT, which {name!r} is not")
        try:
            base = base.with_denoiser(merged(base.denoiser, diff_fit), name=str(folder))
        except FormatError as error:
            raise FormatError(f"{folder / WEIGHTS}: {error}") from error
    prior = base.with_learned(learned, name=str(folder))
    if isinstance(prior, PipelinePrior):
        prior.loaded_from(states, ["adapter", sha256, version("peft") if low_rank else None])
    prior.convert(dtype or torch.float32, vae_dtype)
    return prior


def _of_kind(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return the tensors of a kind by their names without it."""
    return {key.removeprefix(kind): values for key, values in tensors.items() if key.startswith(kind)}


def _record(folder: Path) -> tuple[str, str, list[str], int]:
    """Return prior, hash, classes and rank of an adapter."""
    record = read_json(folder / ADAPTER, RECORD)
    return record["prior"], record["sha256"], record["classes"], record["rank"]


def _check_chain(folder: Path) -> None:
    """Raise FormatError if an adapter is its own base, directly or by others."""
    seen: list[Path] = []
    while is_adapter(folder):
        if (resolved := folder.resolve()) in seen:
            raise FormatError(
                f"{folder / ADAPTER}: names an adapter as prior that is based on this one; expected its base"
            )
        seen.append(resolved)
        folder = Path(_record(folder)[0])


def require_peft() -> None:
    """Raise unless PEFT is installed; called before anything is computed.

    Raises:
        OptionError: PEFT is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise OptionError("rank: low-rank changes need PEFT: pip install 'dap-distill[adapt]', or use rank=0")


def add_low_rank(denoiser: ModelMixin, rank: int, seed: int) -> dict[str, Tensor]:
    """Add A (random) and B (zero) to the attention and feed-forward layers; return these parameters by name, float32.

    Args:
        denoiser: A network of diffusers; it is changed in place.
        rank: r, which is also α.
        seed: Seed of A.

    Raises:
        OptionError: PEFT is not installed.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    layers = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
    with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), denoiser)
    changes = {name: parameter for name, parameter in denoiser.named_parameters() if "lora_" in name}
    for parameter in changes.values():
        parameter.data = parameter.data.float()  # PEFT gives them the dtype of the network
    return changes


def merge_low_rank(denoiser: ModelMixin) -> None:
    """Replace each layer that has low-rank changes by a plain layer with the weights W + B A."""
    for path, layer in _changed(denoiser).items():
        layer.merge()
        parent, _, name = path.rpartition(".")
        setattr(denoiser.get_submodule(parent), name, layer.get_base_layer())
    del denoiser.peft_config  # so that PEFT sees a network without adapters
    denoiser.requires_grad_(False)


@contextmanager
def without_low_rank(denoiser: ModelMixin) -> Iterator[None]:
    """Switch the low-rank changes off inside the context."""
    layers = _changed(denoiser).values()
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _changed(denoiser: ModelMixin) -> dict[str, BaseTunerLayer]:
    """Return the layers that have low-rank changes, by path."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {path: layer for path, layer in denoiser.named_modules() if isinstance(layer, BaseTunerLayer)}
