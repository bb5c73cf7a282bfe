"""The memory and disk that classifiers take in a method, found on torch's meta device; see :mod:`dap.priors.memory`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from dap.methods.common.held_images import held_bytes
from dap.methods.common.surrogate_training import ONE_CYCLE
from dap.nets import Network, create_net, images_at_once
from dap.priors.memory import peak_bytes, without_data

if TYPE_CHECKING:
    from dap.methods.base import Context
    from dap.methods.common.surrogate import SurrogateTraining

__all__ = [
    "features_bytes", "gradient_bytes", "network_bytes", "rehearse_features", "rehearse_network", "states_bytes",
    "surrogate_bytes", "training_bytes",
]  # fmt: skip


def network_bytes(context: Context, network: str, width: int) -> int:
    """Return the memory that a network takes for each image with a graph to the image."""
    return peak_bytes(lambda: rehearse_network(context, network, width))


def rehearse_network(context: Context, network: str, width: int, *, second: bool = False) -> None:
    """Run a network on the meta device on one image, and the backward pass to the image.

    Args:
        context: The run.
        network: One of :func:`dap.nets.list_nets`.
        width: Its number of channels.
        second: Differentiate the gradient by the weights instead of the logits.
    """
    net = without_data(_small(context, network, width)[0])

    def loss(state: dict[str, Tensor], image: Tensor) -> Tensor:
        logits: Tensor = functional_call(net, state, (image[None],))
        return logits.sum()

    image = torch.empty(1, context.channels, context.size, context.size, device="meta")
    image = image.to(memory_format=torch.channels_last).requires_grad_()
    with torch.enable_grad():
        if second:
            gradients = vmap(grad(loss), in_dims=(None, 0))(dict(net.named_parameters()), image)
            total = torch.stack([values.sum() for values in gradients.values()]).sum()
        else:
            total = net(image).sum()
        torch.autograd.grad(total, image)


def features_bytes(net: Network, shape: tuple[int, int, int]) -> int:
    """Return the memory that a network's features take for each image of some shape, with a graph to the image."""
    return peak_bytes(lambda: rehearse_features(net, shape))


def rehearse_features(net: Network, shape: tuple[int, int, int]) -> None:
    """Compute a network's features of one image on the meta device, and the backward pass to the image."""
    on_meta = without_data(net)
    image = torch.empty(1, *shape, device="meta").requires_grad_()
    with torch.enable_grad():
        torch.autograd.grad(on_meta.features(image * 1).sum(), image)  # type: ignore[operator]


def gradient_bytes(context: Context, training: SurrogateTraining) -> int:
    """Return the memory that :meth:`Surrogate.gradients_of` and the real gradients take for each image."""
    _, parameters = _small(context, training.network, training.width)
    copies = training.checkpoints + 4  # real gradients; the image's own, joined, and the gradient of each
    images = peak_bytes(lambda: rehearse_network(context, training.network, training.width, second=True))
    return images + 4 * copies * parameters


def training_bytes(context: Context, network: str, width: int) -> int:
    """Return the memory of training a network on all real images of a run, as a surrogate is trained.

    It is that of a classifier, whose batches are larger: of the images that are held, of the weights with their
    gradients and AdamW's two moments, of a batch as floats, and of the graph of as many images as are trained on at
    once.
    """
    one, parameters = _small(context, network, width)
    shape, count = (context.channels, context.size, context.size), len(context.source)
    pixels, batch = math.prod(shape), min(count, ONE_CYCLE.batch_size)
    net = without_data(one).requires_grad_()

    def step(images: int) -> None:
        with torch.enable_grad():
            torch.autograd.grad(net(torch.empty(images, *shape, device="meta")).sum(), list(net.parameters()))

    image = peak_bytes(lambda: step(2)) - peak_bytes(lambda: step(1))
    return held_bytes(context) + 4 * (4 * parameters + batch * pixels) + min(batch, images_at_once(one, shape)) * image


def states_bytes(context: Context, network: str, width: int, epochs: int) -> int:
    """Return the bytes of a network before its training and after each epoch."""
    return 4 * (epochs + 1) * _small(context, network, width)[1]


def surrogate_bytes(context: Context, training: SurrogateTraining) -> int:
    """Return the bytes of a surrogate in the cache: its states, and the gradients of each class at each."""
    _, parameters = _small(context, training.network, training.width)
    return 4 * training.checkpoints * (len(context.classes) + 1) * parameters


def _small(context: Context, network: str, width: int) -> tuple[Network, int]:
    """Return a network for one class, and the number of parameters of the one for all classes."""
    one, two = (
        create_net(
            network, width=width, channels=context.channels, classes=classes, size=context.size,
            generator=torch.Generator(),
        )
        for classes in (1, 2)
    )  # fmt: skip
    of_one, of_two = (sum(parameter.numel() for parameter in net.parameters()) for net in (one, two))
    return one, of_one + (len(context.classes) - 1) * (of_two - of_one)
