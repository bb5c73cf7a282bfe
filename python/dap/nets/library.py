"""Networks of torchvision, and of timm by any name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from dap.errors import OptionError
from dap.nets.network import LibraryNetwork, take_channels
from dap.nets.seeded import SeededMode

if TYPE_CHECKING:
    from torchvision.models import ResNet

__all__ = ["HEADS", "is_timm_model", "small_vit", "timm_models", "timm_network", "torchvision_network"]

HEADS = {
    "resnet18": "fc", "resnet50": "fc", "resnet101": "fc", "mobilenet_v2": "classifier.1",
    "efficientnet_b0": "classifier.1", "swin_v2_t": "head", "vit_b_16": "heads.head", "vgg11": "classifier.6",
    "alexnet": "classifier.6",
}  # fmt: skip
"""The networks that the literature takes from torchvision, and the name of their last layer."""


def torchvision_network(
    name: str, *, channels: int, classes: int, size: int, generator: torch.Generator, norm: str = "batch"
) -> LibraryNetwork:
    """Return a network of torchvision with its own dropout, stochastic depth and initial weights.

    Args:
        name: One of :data:`HEADS`. Below 129 pixels, ResNets begin with a 3×3 convolution of stride 1, and below 65
            pixels they do not pool after it (Minimax, resnet.py 24-42; RDED's ``resnet18_modified``).
        channels: 3; another number replaces the first convolution (:func:`dap.nets.network.take_channels`).
        classes: Number of classes.
        size: Side of the square images in pixels.
        generator: CPU generator of the initial weights.
        norm: "batch"; or "instance" for ResNets: GroupNorm(C, C).
    """
    import torchvision

    options: dict[str, object] = {"num_classes": classes}
    if name.startswith("resnet") and norm == "instance":
        options["norm_layer"] = _instance_norm
    if name == "vit_b_16":
        options["image_size"] = size
    with SeededMode(generator):
        try:
            net = torchvision.models.get_model(name, weights=None, **options)
        except (AssertionError, ValueError) as error:
            raise OptionError(f"network {name} does not take images of {size} pixels ({error})") from error
        if name.startswith("resnet") and size <= 128:
            _shrink_stem(net, size)
        take_channels(net, channels)
    return LibraryNetwork(net, HEADS[name])


def small_vit(*, channels: int, classes: int, size: int, generator: torch.Generator) -> LibraryNetwork:
    """Return a vision transformer of 4 blocks with 64 channels and 4 heads.

    Its patches have 4 × 4 pixels up to 32 pixels, 8 × 8 above, where the side has to be a multiple of 8.
    """
    from torchvision.models import VisionTransformer

    patch = 4 if size <= 32 else 8
    if size % patch:
        raise OptionError(f"network small_vit: expected a side that is a multiple of {patch} pixels, got {size}")
    with SeededMode(generator):
        net = VisionTransformer(size, patch, 4, 4, 64, 256, num_classes=classes)
        take_channels(net, channels)
    return LibraryNetwork(net, "heads.head")


def timm_models(pattern: str) -> list[str]:
    """Return the names of timm's models that match a pattern such as "vit_tiny*"."""
    import timm

    return list(timm.list_models(pattern))


def is_timm_model(name: str) -> bool:
    """Return whether timm has a model of that name, without a tag of pretrained weights."""
    import timm

    return bool(timm.is_model(name))


def timm_network(name: str, *, channels: int, classes: int, size: int, generator: torch.Generator) -> LibraryNetwork:
    """Return a model of timm without pretrained weights, at timm's defaults.

    Args:
        name: A name that ``timm.create_model`` knows, such as "vit_tiny_patch16_224".
        channels: Channels of the images.
        classes: Number of classes.
        size: Side of the square images in pixels; models of a fixed size are made for it.
        generator: CPU generator of the initial weights.
    """
    import timm

    options = {"pretrained": False, "num_classes": classes, "in_chans": channels}
    with SeededMode(generator):
        try:
            net = timm.create_model(name, img_size=size, **options)
            _check_patches(name, net, size)
        except TypeError:  # a model without that option, which takes any size
            net = timm.create_model(name, **options)
        except (AssertionError, ValueError) as error:
            raise OptionError(f"network timm/{name} does not take images of {size} pixels ({error})") from error
    head = net.pretrained_cfg["classifier"]
    return LibraryNetwork(net, head if isinstance(head, str) else head[0])


def _check_patches(name: str, net: nn.Module, size: int) -> None:
    """Raise OptionError if the patches of a transformer of timm leave out pixels at the edge of the images."""
    patches = getattr(net, "patch_embed", None)
    side = getattr(patches, "patch_size", None)
    padded = getattr(patches, "dynamic_img_pad", False) or getattr(patches, "img_size", None) is None
    if isinstance(side, tuple) and not padded and any(size % part for part in side):
        raise OptionError(
            f"network timm/{name} does not take images of {size} pixels (its patches of {side[0]} × {side[1]} would "
            "leave out the edge)"
        )


def _instance_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width, width)


def _shrink_stem(net: ResNet, size: int) -> None:
    """Replace the first convolution of a ResNet, and below 65 pixels its pooling, by those for small images."""
    net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's other ones
    if size <= 64:
        net.maxpool = nn.Identity()
