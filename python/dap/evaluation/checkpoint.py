"""The checkpoint of a training: weights, the optimiser's state, the generator's state and the accuracies so far."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dap.errors import FormatError
from dap.evaluation.protocol import Training
from dap.evaluation.recipe import Recipe
from dap.nets.teacher import update_state_hash
from dap.storage.files import write_atomic

__all__ = ["read_checkpoint", "training_identity", "write_checkpoint"]


def training_identity(
    recipe: Recipe, images: np.ndarray, labels: np.ndarray, test_labels: np.ndarray, training: Training
) -> str:
    """Return a hash of what a checkpoint depends on: of the tests, the labels, if there are tests on the way."""
    digest = hashlib.sha256(json.dumps([training.network, training.classes, asdict(recipe)]).encode())
    digest.update(training.generator.get_state().numpy().tobytes())
    for values in (images, labels, test_labels if recipe.checks > 1 else None, training.weights):
        if values is not None:
            digest.update(np.ascontiguousarray(values).data)
    if recipe.labels == "teacher" and training.teacher is not None:
        update_state_hash(digest, training.teacher)
    return digest.hexdigest()


def write_checkpoint(
    path: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    epochs: int,
    accuracies: list[float],
    *,
    identity: str,
) -> None:
    """Write the checkpoint after ``epochs`` epochs of the training with this identity."""
    tensors = {f"net {name}": value for name, value in net.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimiser {number} {key}": value for key, value in state.items()}
    tensors["generator"] = generator.get_state()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    notes = {"epochs": str(epochs), "accuracies": json.dumps(accuracies), "training": identity}
    write_atomic(path, save(tensors, metadata=notes))


def read_checkpoint(
    path: Path, net: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, *, identity: str
) -> tuple[int, list[float]]:
    """Restore a checkpoint in place, if it is of the training with this identity.

    Returns:
        The number of epochs, and the accuracies so far.

    Raises:
        FormatError: It is damaged, or of another training.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors, notes = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
        if notes["training"] != identity:
            raise ValueError("it has other constants, images, labels, tests, weights, teacher or seed")
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name in [name for name in tensors if name.startswith("optimiser ")]:
            _, number, key = name.split(" ", 2)
            state.setdefault(int(number), {})[key] = tensors.pop(name)
        random_state = tensors.pop("generator")
        net.load_state_dict({name.removeprefix("net "): value for name, value in tensors.items()})
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, values in optimizer.state.items():  # in its memory format, on which rounding depends
            for key, value in values.items():
                if value.shape == parameter.shape:
                    values[key] = torch.empty_like(parameter).copy_(value)
        generator.set_state(random_state)
        return int(notes["epochs"]), json.loads(notes["accuracies"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"{path}: not a checkpoint of this training ({reason}); delete it to start anew") from error
