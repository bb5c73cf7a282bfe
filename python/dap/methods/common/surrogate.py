"""The surrogate: a classifier trained on the real images, with checkpoints of its training and real gradients at each.

IGD (:mod:`dap.methods.igd`) measures how similar a training step on an image is to one on the real images of its class.
The steps are compared at checkpoints θ_1 … θ_E of one training on all real images. Each checkpoint comes with the mean
gradient of each class,

    ḡ_c(θ) = (1/N) Σ_n ∇_θ ℓ(f_θ(x_n), c),    ℓ the cross-entropy, x_1 … x_N real images of class c.

The candidates for checkpoints are the state before the training and those after each epoch. The first one is kept, then
each one whose mean gradients have turned: the mean cosine (1/C) Σ_c cos(ḡ_c(θ), ḡ_c(θ_last)) is below a threshold, with
θ_last the last one kept.

Source: Chen et al., "Influence-Guided Diffusion for Dataset Distillation", ICLR 2025, and its code (the threshold, 0.7,
and the mean over classes). Its surrogate is trained by SGD with a constant rate of 0.01, momentum 0.9 and weight decay
5e-4 in batches of 64, on images that are normalised to [-1, 1]; so is this one. How the released one was augmented is
not known; here images are shifted and mirrored (:func:`dap.nets.shift_flip`).

The gradients of C classes at E checkpoints are E · C times as large as the network. They are computed class by class,
written to the cache, and read for the classes of one unit at a time. The last layer of a ConvNet grows with the area
of the images, so images of 256 pixels need a deep one: for 1,000 classes and 128 channels a gradient has 131 million
numbers with three blocks ("convnet3"), and 2.8 million with six ("convnet6").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from dap.config import check_choice, check_number, check_whole
from dap.methods.common.cached_networks import content_of, damaged, new_net, read_tensors
from dap.methods.common.class_gradients import gradient_file
from dap.methods.common.network_memory import surrogate_bytes
from dap.methods.common.surrogate_training import train_with_gradients
from dap.nets import list_nets
from dap.storage.cache import RESULT, SURROGATES, CacheEntry
from dap.storage.files import write_atomic
from dap.storage.unfinished import continued, unfinished_bytes

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = ["Surrogate", "SurrogateTraining", "prepare_surrogate"]

RULE = 3  # raise it with every change of the computed bits, so that surrogates of older versions are not used
STATES = "states.safetensors"


@dataclass(frozen=True)
class SurrogateTraining:
    """The options of a surrogate; the defaults are IGD's published constants, except for the network.

    Attributes:
        network: One of :func:`dap.nets.list_nets`; the paper has six blocks for 256 pixels, "convnet6".
        width: Its number of channels.
        epochs: Passes over the real images, at least 2.
        checkpoints: Largest number of checkpoints, at least 1.
        similarity: Cosine similarity of mean gradients, from -1 to 1, below which a checkpoint is kept.
        references: Number of real images of each class whose gradients are averaged, at least 1; a class with fewer
            images gives all it has.
    """

    network: str = "convnet3"
    width: int = 128
    epochs: int = 50
    checkpoints: int = 4
    similarity: float = 0.7
    references: int = 200

    def __post_init__(self) -> None:
        check_choice("network", self.network, list_nets())
        for option, least in (("width", 1), ("epochs", 2), ("checkpoints", 1), ("references", 1)):
            check_whole(option, getattr(self, option), least)
        check_number("similarity", self.similarity, -1, 1)


@dataclass(frozen=True)
class Surrogate:
    """A network with E states of its P parameters, and files with the real gradients at each state.

    Attributes:
        net: Maps float images in [-1, 1] to the logits of C classes; the weights that it holds are not used.
        epochs: The epoch after which each state was kept; 0 before the training.
        weights: θ, float32 (E, P), on the network's device.
        files: The file of each state with the gradient of each class.
    """

    net: nn.Module
    epochs: tuple[int, ...]
    weights: Tensor
    files: tuple[Path, ...]

    def real_gradients(self, classes: Sequence[int]) -> Tensor:
        """Return ḡ_c(θ) of some classes, float32 (E, number of classes, P) on the CPU.

        Raises:
            FormatError: A file in the cache is damaged.
        """
        by_class = {number: place for place, number in enumerate(dict.fromkeys(classes))}
        states = []
        for path in self.files:
            try:
                with safe_open(path, framework="pt") as file:
                    states.append(torch.stack([file.get_tensor(str(number)) for number in by_class]))
            except SafetensorError as error:
                raise damaged(path, error) from error
        return torch.stack(states)[:, [by_class[number] for number in classes]]

    def gradients_of(self, number: int, pixels: Tensor, targets: Tensor) -> Tensor:
        """Return ∇_θ ℓ(f_θ(x), c) of each image by itself, at state ``number``.

        Args:
            number: The state's number, from 0.
            pixels: x, float (B, channels, H, W) in [-1, 1].
            targets: c, int64 (B,).

        Returns:
            (B, P), with the graph to ``pixels``.
        """
        shapes = {name: weights.shape for name, weights in self.net.named_parameters()}
        parts = self.weights[number].split([shape.numel() for shape in shapes.values()])
        state = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}

        def loss(state: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
            return functional.cross_entropy(functional_call(self.net, state, (image[None],)), target[None])

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(state, pixels, targets)
        return torch.cat([gradients[name].flatten(1) for name in shapes], dim=1)


def prepare_surrogate(context: Context, training: SurrogateTraining) -> Surrogate:
    """Return the surrogate of a run's real images; train it unless the cache has it.

    Args:
        context: The run; its source, classes, image size, seed and device matter.
        training: The options of the surrogate.

    Raises:
        OptionError: The gradients do not fit on the disk of the cache, the cache cannot be written, or the source is an
            index without images.
        FormatError: An image or a file in the cache cannot be read.
    """
    net = new_net(context, training.network, training.width)
    entry = CacheEntry.of(SURROGATES, content_of(context, RULE, asdict(training)))
    if not entry.is_whole():
        parameters, classes = sum(weights.numel() for weights in net.parameters()), len(context.classes)
        entry.check_space(
            surrogate_bytes(context, training) - unfinished_bytes(entry),
            f"the surrogate's gradients ({training.checkpoints} checkpoints, {classes:,} classes, {training.network} "
            f"of width {training.width} with {parameters:,} parameters) take up to",
            "choose a deeper network for large images (network=convnet6 for 256 pixels), a smaller width, fewer "
            "checkpoints or classes",
        )
        with continued(entry) as unfinished:
            if unfinished is not None:
                folder = unfinished.folder
                epochs, weights = train_with_gradients(
                    context, net, folder, epochs=training.epochs, checkpoints=training.checkpoints,
                    similarity=training.similarity, references=training.references,
                )  # fmt: skip
                write_atomic(folder / RESULT / STATES, save({"epochs": torch.tensor(epochs), "weights": weights}))
    states = read_tensors(entry.path / STATES)
    epochs = states["epochs"].tolist()
    files = tuple(gradient_file(entry.path, number) for number in range(len(epochs)))
    return Surrogate(net, tuple(epochs), states["weights"].to(context.prior.device), files)
