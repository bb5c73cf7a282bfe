"""Networks that a run trains on its images, in the cache: classifiers, and the states of a training.

They are trained by AdamW and one cycle, as protocol "small" trains, on images that are shifted and mirrored
(:mod:`dap.methods.common.surrogate_training`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from dap.errors import FormatError
from dap.methods.common.network_memory import states_bytes
from dap.methods.common.surrogate_training import Examples, train, train_with_states
from dap.nets import Network, create_net
from dap.rng import generator
from dap.storage.cache import RESULT, SURROGATES, CacheEntry
from dap.storage.files import write_atomic
from dap.storage.unfinished import continued, unfinished_bytes
from dap.torch_state import tf32_on

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = [
    "Made", "TrainedStates", "content_of", "damaged", "new_net", "prepare_classifier", "prepare_states", "read_tensors",
]  # fmt: skip

CLASSIFIER_RULE = 2  # raise it with every change of the computed bits, so that those of older versions are not used
STATES_RULE = 2  # the same for states
STATES = "states.safetensors"


class Made(NamedTuple):
    """Images to train a classifier on in place of the real ones.

    Attributes:
        images: Returns them, uint8 (N, channels, size, size) on the CPU.
        labels: The class of each, int64 (N,).
        content: All that they depend on, JSON-able.
        title: The title of the progress bar.
    """

    images: Callable[[], Tensor]
    labels: Tensor
    content: object
    title: str


def prepare_classifier(context: Context, network: str, width: int, epochs: int, made: Made | None = None) -> nn.Module:
    """Return a classifier that is trained as a surrogate is, without checkpoints; or find it in the cache.

    Args:
        context: As for :func:`dap.methods.common.surrogate.prepare_surrogate`.
        network: One of :func:`dap.nets.list_nets`.
        width: The number of channels.
        epochs: Passes over the images.
        made: Images to train on; None: all real images of the run.

    Raises:
        OptionError: The cache cannot be written, or the source is an index without images.
        FormatError: An image or the file in the cache cannot be read.
    """
    net = new_net(context, network, width)
    options = ["classifier", network, width, epochs]
    content = content_of(context, CLASSIFIER_RULE, options if made is None else [*options, made.content])
    entry = CacheEntry.of(SURROGATES, content, ".safetensors")
    if not entry.is_whole():
        with continued(entry) as unfinished:
            if unfinished is not None:
                folder = unfinished.folder
                if made is None:
                    weights = train(context, net, folder, epochs=epochs)
                else:
                    examples = Examples(made.images().__getitem__, made.labels)
                    weights = train(context, net, folder, epochs=epochs, examples=examples, title=made.title)
                (folder / RESULT).write_bytes(save({"weights": weights}))
    vector_to_parameters(read_tensors(entry.path)["weights"].to(context.prior.device), net.parameters())
    net.zero_grad()  # of the training
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class TrainedStates:
    """The states of the trainings of a network on the real images: before a training, and after each of its epochs.

    Attributes:
        new: Returns the network, on the CPU.
        weights: Its parameters at each state of each training, float32 (trainings, epochs + 1, P) on the CPU.
    """

    new: Callable[[], Network]
    weights: Tensor

    def network(self, training: int, state: int) -> Network:
        """Return the network at a state, on the CPU, to be evaluated and not trained."""
        net = self.new().eval().requires_grad_(False)
        vector_to_parameters(self.weights[training, state], net.parameters())
        return net


def prepare_states(context: Context, network: str, width: int, epochs: int, trainings: int) -> TrainedStates:
    """Train a network on the real images from several initial weights, or find the states in the cache.

    Args:
        context: As for :func:`dap.methods.common.surrogate.prepare_surrogate`.
        network: One of :func:`dap.nets.list_nets`.
        width: As for :func:`dap.nets.create_net`.
        epochs: Passes over the images in each training.
        trainings: The number of trainings.

    Raises:
        OptionError: The states do not fit on the disk of the cache, the cache cannot be written, or the source is an
            index without images.
        FormatError: An image or a file in the cache cannot be read.
    """
    weights = []
    for number in range(trainings):
        entry = CacheEntry.of(SURROGATES, content_of(context, STATES_RULE, ["states", network, width, epochs, number]))
        if not entry.is_whole():
            need = states_bytes(context, network, width, epochs) - unfinished_bytes(entry)
            subject = f"the states of a training of {network} over {epochs} epochs take"
            entry.check_space(need, subject, "choose fewer epochs or a smaller width")
            with continued(entry) as unfinished:
                if unfinished is not None:
                    folder, net = unfinished.folder, new_net(context, network, width, number)
                    states = train_with_states(
                        context, net, folder, epochs=epochs, number=number,
                        title=f"training {number + 1} of {trainings} of {network}",
                    )  # fmt: skip
                    write_atomic(folder / RESULT / STATES, save({"weights": states}))
        weights.append(read_tensors(entry.path / STATES)["weights"])
    return TrainedStates(lambda: _created(context, network, width, 0), torch.stack(weights))


def new_net(context: Context, network: str, width: int, number: int = 0) -> Network:
    """Return the network of a training for the classes of a run, on the device of its prior."""
    return _created(context, network, width, number).to(context.prior.device)


def _created(context: Context, network: str, width: int, number: int) -> Network:
    key = ("surrogate", "net", number) if number else ("surrogate", "net")
    return create_net(
        network, width=width, channels=context.channels, classes=len(context.classes), size=context.size,
        generator=generator(context.seed, *key),
    )  # fmt: skip


def content_of(context: Context, rule: int, training: object) -> list[object]:
    """Return everything that the bytes of a cached network depend on."""
    names = [entry.name for entry in context.classes]
    return [
        rule, context.source.identity(), names, context.size, context.channels, context.seed, training,
        version("torch"), context.prior.device.type, *tf32_on(context.prior.device),
    ]  # fmt: skip


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of the cache, on the CPU."""
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: SafetensorError) -> FormatError:
    """Return the error of a damaged file of the cache."""
    return FormatError(f"{path}: not the safetensors file that dap wrote ({error}); delete it, it is made again")
