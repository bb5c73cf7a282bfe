"""The surrogate: a classifier trained on the real images, with checkpoints of its training and real gradients at each.

IGD (:mod:`dap.methods.igd`) measures how similar a training step on an image is to one on the real images of its class.
The steps are compared at checkpoints θ_1 … θ_E of one training on all real images. Each checkpoint comes with the mean
gradient of each class,

    ḡ_c(θ) = (1/N) Σ_n ∇_θ ℓ(f_θ(x_n), c),    ℓ the cross-entropy, x_1 … x_N real images of class c.

The candidates for checkpoints are the states after each epoch. The first one is kept, then each one whose mean
gradients have turned: the mean cosine (1/C) Σ_c cos(ḡ_c(θ), ḡ_c(θ_last)) is below a threshold, with θ_last the last one
kept.

Source: Chen et al., "Influence-Guided Diffusion for Dataset Distillation", ICLR 2025, and its code (the threshold, 0.7,
and the mean over classes). The code does not show whether the first candidate is before or after the first epoch. The
network is trained by :func:`dap.nets.train_classifier` (AdamW, one cycle), whereas the paper uses SGD at 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from dap.config import check_choice, check_number, check_whole
from dap.errors import FormatError
from dap.nets import create_net, list_nets, train_classifier
from dap.rng import generator
from dap.selection import random_per_class
from dap.storage.cache import SURROGATES, CacheEntry

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = ["Surrogate", "SurrogateTraining", "mean_gradients", "prepare_surrogate"]

RULE = 1  # raise it with every change of the computed bits, so that surrogates of older versions are not used
BATCH_SIZE, PEAK_LR, WEIGHT_DECAY, MAX_SHIFT = 128, 3e-3, 5e-4, 3  # as protocol "small" trains
GRADIENT_BATCH = 50


@dataclass(frozen=True)
class SurrogateTraining:
    """The options of a surrogate; the defaults are IGD's published constants, except for the network.

    Attributes:
        network: One of :func:`dap.nets.list_nets`; the paper has a ConvNet of six blocks for 256 pixels.
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
    """A network with E states of its P parameters.

    Attributes:
        net: Maps float images in [-1, 1] to the logits of C classes; the weights that it holds are not used.
        epochs: The epoch after which each state was kept.
        weights: θ, float32 (E, P), on the network's device.
        gradients: ḡ_c(θ), float32 (E, C, P), on the CPU.
    """

    net: nn.Module
    epochs: tuple[int, ...]
    weights: Tensor
    gradients: Tensor

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

    For the training all real images are held in memory as uint8.

    Args:
        context: The run; its source, classes, image size, seed and device matter.
        training: The options of the surrogate.

    Raises:
        OptionError: The cache cannot be written, or the source is an index without images.
        FormatError: An image or the cached file cannot be read.
    """
    device = context.prior.device
    names = [entry.name for entry in context.classes]
    net = create_net(
        training.network, width=training.width, channels=context.channels, classes=len(names), size=context.size,
        generator=generator(context.seed, "surrogate", "net"),
    ).to(device)  # fmt: skip
    content = [
        RULE, context.source.identity(), names, context.size, context.channels, context.seed, asdict(training),
        version("torch"), device.type,
    ]  # fmt: skip
    entry = CacheEntry.of(SURROGATES, content, ".safetensors")
    if entry.is_whole():
        tensors = _read(entry.path)
    else:
        tensors = _train(context, training, net)
        entry.write(save(tensors))
    return Surrogate(net, tuple(tensors["epochs"].tolist()), tensors["weights"].to(device), tensors["gradients"])


def mean_gradients(net: nn.Module, images: Sequence[Tensor]) -> Tensor:
    """Return ḡ_c of each class at the network's own weights.

    Args:
        net: Maps float images in [-1, 1] to C logits.
        images: Real images of each of the C classes, uint8 (N_c, channels, H, W).

    Returns:
        Gradients, float32 (C, P) on the CPU, with parameters in the order of ``net.parameters()``.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> mean_gradients(net, [torch.zeros(3, 1, 2, 2, dtype=torch.uint8)] * 2).shape
        torch.Size([2, 10])
    """
    parameters = list(net.parameters())
    rows = []
    for target, class_images in enumerate(images):
        total = torch.zeros(sum(parameter.numel() for parameter in parameters))
        for batch in class_images.split(GRADIENT_BATCH):
            logits = net(batch.to(parameters[0].device).float() / 127.5 - 1)
            targets = torch.full((len(batch),), target, device=logits.device)
            loss = functional.cross_entropy(logits, targets, reduction="sum")
            total += _flat(torch.autograd.grad(loss, parameters))
        rows.append(total / len(class_images))
    return torch.stack(rows)


def _train(context: Context, training: SurrogateTraining, net: nn.Module) -> dict[str, Tensor]:
    """Train the network; return the states that are kept with their gradients, all on the CPU."""
    source = context.source
    drawn = random_per_class(source, training.references, context.seed)
    real = [context.images(drawn[source.labels[drawn] == target]) for target in range(len(context.classes))]
    batch_size = min(len(source), BATCH_SIZE)
    epoch = math.ceil(len(source) / batch_size)
    epochs: list[int] = []
    weights: list[Tensor] = []
    gradients: list[Tensor] = []

    def keep(net: nn.Module, step: int) -> None:
        if step % epoch or len(epochs) == training.checkpoints:
            return
        candidate = mean_gradients(net, real)
        if not epochs or functional.cosine_similarity(gradients[-1], candidate).mean() < training.similarity:
            epochs.append(step // epoch)
            weights.append(_flat([parameter.detach() for parameter in net.parameters()]))
            gradients.append(candidate)

    train_classifier(
        net, context.images(range(len(source))), torch.tensor(source.labels), steps=training.epochs * epoch,
        batch_size=batch_size, peak_lr=PEAK_LR, weight_decay=WEIGHT_DECAY, max_shift=MAX_SHIFT,
        generator=generator(context.seed, "surrogate", "training"), device=context.prior.device,
        after_step=keep,
    )  # fmt: skip
    return {"epochs": torch.tensor(epochs), "weights": torch.stack(weights), "gradients": torch.stack(gradients)}


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors]).cpu()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise FormatError(f"{path}: not the safetensors file that dap wrote ({error}); delete it") from error
