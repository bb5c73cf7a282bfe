"""Adapters: what a class-conditional prior was taught after its training, kept apart from it.

A folder with ``dap_adapter.json`` (which prior, and the hash of its weights) and ``adapter.safetensors``: embeddings of
classes that it did not know, one row for each table of the network, and perhaps low-rank changes of its weights,
W + (α / r) · B A (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022), in the names of PEFT.
These are merged into the weights when the prior is loaded, so that an adapted prior is a prior like any other.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dap.errors import FormatError, OptionError
from dap.priors.capabilities import ClassEmbeddingPrior
from dap.storage.files import write_atomic, write_json

if TYPE_CHECKING:
    from dap.priors.base import Prior

__all__ = [
    "ADAPTER", "WEIGHTS", "add_low_rank", "is_adapter", "load_adapted", "merge_low_rank", "require_peft",
    "without_low_rank", "write_adapter",
]  # fmt: skip

ADAPTER, WEIGHTS = "dap_adapter.json", "adapter.safetensors"
CLASS, LOW_RANK = "class ", "lora "  # before the names of the two kinds of tensors


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter."""
    return (Path(folder) / ADAPTER).is_file()


def write_adapter(
    folder: Path, prior: str, sha256: str, learned: Mapping[str, Tensor], low_rank: Mapping[str, Tensor], rank: int
) -> None:
    """Writes both files.

    Args:
        folder: Is there.
        prior: Name, folder or hub id of the prior that was taught.
        sha256: Of its weights.
        learned: Rows (tables, D) by class name.
        low_rank: A and B of PEFT's names; empty without.
        rank: r, which is α too.
    """
    tensors = {CLASS + name: rows for name, rows in learned.items()}
    tensors |= {LOW_RANK + name: values for name, values in low_rank.items()}
    held = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(folder / WEIGHTS, save(held))
    record = {"prior": prior, "sha256": sha256, "classes": list(learned), "rank": rank}
    write_json(folder / ADAPTER, record)


def load_adapted(
    folder: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
) -> Prior:
    """The prior of an adapter, with what it was taught.

    Raises:
        FormatError: A file of the adapter is damaged.
        OptionError: The prior is not the one that was taught.
        SourceError: It cannot be loaded.
    """
    from dap.priors import load_prior

    folder = Path(folder)
    try:
        record = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        name, sha256, classes, rank = (record[key] for key in ("prior", "sha256", "classes", "rank"))
        tensors = load((folder / WEIGHTS).read_bytes())
        learned = {each: tensors[CLASS + each] for each in classes}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise FormatError(f"{folder}: expected {ADAPTER} and {WEIGHTS} as dap writes them ({error!r})") from error
    base = load_prior(name, device=device, options=options)  # in float32, as it was when it was taught
    if not isinstance(base, ClassEmbeddingPrior):
        raise OptionError(f"{folder}: {name!r} has no class embeddings, which an adapter adds to")
    if base.describe()["sha256"] != sha256:
        raise OptionError(f"{folder}: was made for other weights than {name!r} has now; adapt that prior again")
    low_rank = {key.removeprefix(LOW_RANK): each for key, each in tensors.items() if key.startswith(LOW_RANK)}
    if low_rank:
        parameters = add_low_rank(base.denoiser, rank, seed=0)
        for key, parameter in parameters.items():
            if key not in low_rank or low_rank[key].shape != parameter.shape:
                raise FormatError(f"{folder / WEIGHTS}: no {key} of shape {tuple(parameter.shape)} in it")
            parameter.data.copy_(low_rank[key])
        merge_low_rank(base.denoiser)
    if dtype is not None:
        base.pipeline.to(dtype)
    return base.with_learned(learned, name=str(folder))


def require_peft() -> None:
    """Says early what is missing.

    Raises:
        OptionError: PEFT is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise OptionError("rank: expected PEFT to be there: pip install 'dap-distill[adapt]', or take rank=0")


def add_low_rank(denoiser: Any, rank: int, seed: int) -> dict[str, Tensor]:
    """Puts A (random) and B (zero) beside the attention and feed-forward layers; their parameters by name.

    Args:
        denoiser: A network of diffusers; it is changed.
        rank: r, and α.
        seed: Of A.

    Raises:
        OptionError: PEFT is not installed.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    layers = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
    with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), denoiser)
    return {name: each for name, each in denoiser.named_parameters() if "lora_" in name}


def merge_low_rank(denoiser: Any) -> None:
    """W + B A in the place of each layer that has them."""
    for path, layer in _changed(denoiser).items():
        layer.merge()
        parent, _, name = path.rpartition(".")
        setattr(denoiser.get_submodule(parent), name, layer.get_base_layer())
    del denoiser.peft_config  # so that PEFT takes it for a network without adapters, which it is
    denoiser.requires_grad_(False)


@contextmanager
def without_low_rank(denoiser: Any) -> Iterator[None]:
    """While it lasts the network is the one that it was."""
    layers = _changed(denoiser).values()
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _changed(denoiser: Any) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {path: layer for path, layer in denoiser.named_modules() if isinstance(layer, BaseTunerLayer)}
