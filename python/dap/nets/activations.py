"""The memory of a training step: what autograd keeps for each image, and how many images fit."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

__all__ = ["activation_bytes", "images_at_once"]

LIMIT = 2**31  # bytes of activations; fixed, so that results do not depend on the memory at hand


def activation_bytes(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return the bytes that autograd keeps of one image for the backward pass, besides the weights.

    The network is run on torch's meta device: nothing is computed, and no memory is taken.

    Args:
        net: Takes float images (B, channels, H, W).
        shape: Channels, height and width of an image.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU())
        >>> activation_bytes(net, (3, 2, 2)) == 4 * (12 + 4)  # the inputs of the linear layer, the outputs of the ReLU
        True
    """
    state = {name: value.detach().to("meta") for name, value in (*net.named_parameters(), *net.named_buffers())}
    weights = {value.untyped_storage()._cdata for value in state.values()}
    kept: dict[int, Tensor] = {}  # by storage; the tensors keep their storages from being reused

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    for name, _ in net.named_parameters():
        state[name].requires_grad_()
    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        functional_call(net, state, (torch.empty(1, *shape, device="meta"),))
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in weights)


def images_at_once(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return how many images a network is trained on at once, at least 1: their activations take up to 2 GiB."""
    return max(1, LIMIT // max(activation_bytes(net, shape), 1))
