"""The register of networks: ``dap.list_networks``, and how each name becomes a network."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import nn

from dap.config import check_choice
from dap.errors import OptionError
from dap.nets.convnet import ConvNet
from dap.nets.library import HEADS, is_timm_model, small_vit, timm_models, timm_network, torchvision_network
from dap.nets.network import LibraryNetwork, Network
from dap.nets.resnet_ap import ResNetAP
from dap.nets.seeded import SeededMode

__all__ = ["check_network", "create_net", "list_nets", "list_networks"]

CONVNETS = {"convnet3": 3, "convnet4": 4, "convnet5": 5, "convnet6": 6}  # for 32, 64, 128 and 256 pixels
WIDTH = 128
SMALL = ("small_mlp", "small_resnet_ap10", "small_vit")
TIMM = "timm/"

_tried: set[tuple[str, int, int, int | None, str | None]] = set()
"""The kinds of network that have passed :func:`_try` in this process."""


def list_networks(filter: str = "*") -> list[str]:
    """List the networks that ``dap.evaluate`` and :func:`create_net` take by name.

    Args:
        filter: A pattern with "*" and "?". Those of timm are listed if it begins with "timm/".

    Example:
        >>> list_networks("convnet*")
        ['convnet3', 'convnet4', 'convnet5', 'convnet6']
        >>> "timm/vit_tiny_patch16_224" in list_networks("timm/vit*")
        True
    """
    if filter.startswith(TIMM):
        return [TIMM + name for name in timm_models(filter.removeprefix(TIMM))]
    return [name for name in (*CONVNETS, "resnet_ap10", *HEADS, *SMALL) if fnmatchcase(name, filter)]


def list_nets() -> list[str]:
    """Return the names of the ConvNets: networks without batch statistics, of any width, which methods train."""
    return list(CONVNETS)


def check_network(name: object) -> None:
    """Raise OptionError unless ``name`` is one of :func:`list_networks`, or "timm/" and the name of a model of timm."""
    names = [*list_networks(), f"{TIMM}NAME"]
    if isinstance(name, str) and name.startswith(TIMM):
        if is_timm_model(name.removeprefix(TIMM)):
            return
        names = list_networks(TIMM + "*")
    check_choice("network", name, names)


def create_net(
    name: str,
    *,
    channels: int,
    classes: int,
    size: int,
    generator: torch.Generator,
    width: int | None = None,
    norm: str | None = None,
    first_padding: int = 1,
) -> Network:
    """Build a network by name, on the CPU; its initial weights come from ``generator`` alone.

    Args:
        name: One of :func:`list_networks`: "convnet3" to "convnet6", of 3 to 6 blocks, each of which halves the side;
            "resnet_ap10"; a network of torchvision; one for images of 28 to 64 pixels, "small_mlp" (two hidden layers
            of 256), "small_resnet_ap10" (of width 16) or "small_vit" (4 blocks of 64); or a model of timm,
            "timm/vit_tiny_patch16_224".
        channels: Channels of the images, 1 or 3, or of the latents that a method shows to the network.
        classes: Number of classes.
        size: Side of the square images in pixels.
        generator: CPU generator of the initial weights.
        width: Channels of the blocks of a ConvNet (128 if left out), or of the first stage of a ResNetAP (64).
        norm: "instance" or "batch", for ConvNets, ResNetAP and ResNets; others keep their own. If left out,
            ConvNets and ResNetAP have "instance", ResNets have "batch".
        first_padding: Padding of the first convolution of a ConvNet: 1, or 3 as the references have for grey images.

    Raises:
        OptionError: The name is unknown, or the network does not take images of this size.

    Example:
        >>> net = create_net("convnet3", width=32, channels=1, classes=10, size=32, generator=torch.Generator())
        >>> sum(weights.numel() for weights in net.parameters())
        24138
    """
    check_network(name)
    if norm is not None:
        check_choice("norm", norm, ("instance", "batch"))
    build: Callable[..., Network]
    if name in CONVNETS:
        width, build = width or WIDTH, partial(ConvNet, depth=CONVNETS[name], first_padding=first_padding)
        build = partial(build, width=width, norm=norm or "instance")
    elif name == "resnet_ap10":
        build = partial(ResNetAP, width=width or 64, norm=norm or "instance")
    elif name == "small_resnet_ap10":
        build = partial(ResNetAP, width=16, norm=norm or "instance")
    elif name == "small_mlp":
        build = _mlp
    elif name == "small_vit":
        build = small_vit
    elif name in HEADS:
        build = partial(torchvision_network, name, norm=norm or "batch")
    else:
        build = partial(timm_network, name.removeprefix(TIMM))
    net = build(channels=channels, classes=classes, size=size, generator=generator)
    kind = name, channels, size, width, norm
    if name not in CONVNETS and kind not in _tried:  # a try takes as long as making the network, and steps draw many
        _try(net, name, channels, size)
        _tried.add(kind)
    return net


def _mlp(*, channels: int, classes: int, size: int, generator: torch.Generator) -> LibraryNetwork:
    with SeededMode(generator):
        hidden = [nn.Linear(channels * size * size, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
        return LibraryNetwork(nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, classes)), "5")


def _try(net: Network, name: str, channels: int, size: int) -> None:
    """Raise OptionError unless the network takes images of this size, without computing anything.

    It is tried in training with two images, which batch norm needs, and in evaluation with one image, which shows
    whether an instance norm is left with one value.
    """
    from torch.func import functional_call

    state = {key: value.to("meta") for key, value in (*net.named_parameters(), *net.named_buffers())}
    try:
        with torch.no_grad():
            for images in (2, 1):
                net.train(images == 2)
                functional_call(net, state, (torch.empty(images, channels, size, size, device="meta"),))
        net.train()
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OptionError(f"network {name} does not take images of {size} pixels ({reason})") from error
