"""The register of networks: each equals its reference, and its weights come from a generator alone."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

from dap import list_networks
from dap.errors import OptionError
from dap.nets import Network, create_net
from dap.nets.library import HEADS
from dap.nets.seeded import SeededMode
from dap.rng import generator

instance = partial(torchvision.models.resnet18, norm_layer=lambda width: nn.GroupNorm(width, width))


def build(name: str, *, channels: int = 3, size: int = 32, classes: int = 10, seed: int = 0, **options) -> Network:
    draw = torch.Generator().manual_seed(seed)
    return create_net(name, channels=channels, classes=classes, size=size, generator=draw, **options)


def without_data(name: str, size: int, **options) -> Network:
    with torch.device("meta"):
        return build(name, size=size, **options)


def parameters(net: nn.Module) -> int:
    return sum(weights.numel() for weights in net.parameters())


def changed(net: nn.Module) -> nn.Module:
    """The network in eval mode, with norms and running statistics that are not the identity."""
    with torch.no_grad():
        for name, weights in (*net.named_parameters(), *net.named_buffers()):
            if weights.ndim == 1 and weights.is_floating_point():
                weights.add_(0.3 * torch.rand(weights.shape, generator=generator(name)))
    return net.eval()


@pytest.mark.parametrize("name", ["resnet18", "small_vit", "efficientnet_b0", "small_mlp", "timm/resnet10t"])
@pytest.mark.parametrize("channels", [2, 4, 8])
def test_networks_of_latents_see_every_channel(name: str, channels: int) -> None:
    net, images = build(name, channels=channels).eval(), torch.rand(1, channels, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(net.features(images)[0, :5].sum(), images)
    sizes = gradient.double().norm(dim=(2, 3))[0]  # a deep network's are too small for squares in float32
    assert sizes.min() > 0.1 * sizes.max() > 0
    again = build(name, channels=channels).eval()
    assert torch.equal(net(images), again(images))


def test_the_first_convolution_of_latents_keeps_the_variance_of_colours() -> None:
    (few,), (many,) = ([next(build("resnet18", channels=count).parameters())] for count in (3, 8))
    noise = generator("noise")
    outputs = [
        functional.conv2d(torch.randn(8, weight.shape[1], 16, 16, generator=noise), weight) for weight in (few, many)
    ]
    deviations = [float(output.detach().std()) for output in outputs]
    assert deviations[0] == pytest.approx(deviations[1], rel=0.1)


class TestCounts:
    """Counted by building the references (10 classes)."""

    @pytest.mark.parametrize(("name", "size", "expected"), [
        ("convnet6", 128, 748_170), ("convnet6", 224, 754_570), ("convnet6", 256, 763_530),
        ("resnet_ap10", 224, 4_910_922), ("resnet_ap10", 128, 4_903_242),
    ])  # fmt: skip
    def test_ours(self, name: str, size: int, expected: int) -> None:
        assert parameters(without_data(name, size)) == expected

    def test_resnet18(self) -> None:
        assert parameters(without_data("resnet18", 224, norm="instance")) == 11_181_642

    @pytest.mark.parametrize("name", HEADS)
    def test_torchvisions_are_torchvisions(self, name: str) -> None:
        """Layers, options, dropout and stochastic depth are those that torchvision prints."""
        net = without_data(name, 224, classes=7)
        with torch.device("meta"):
            reference = torchvision.models.get_model(name, num_classes=7)
        assert repr(net.net) == repr(reference)
        assert reference.get_submodule(HEADS[name]).out_features == 7


def plain_convnet(state: dict[str, torch.Tensor], images: torch.Tensor, depth: int, norm: str, padding: int):
    layers = [f"layers.{4 * block}" for block in range(depth)]
    for number, layer in enumerate(layers):
        images = functional.conv2d(images, state[f"{layer}.weight"], state[f"{layer}.bias"],
                                   padding=1 if number else padding)  # fmt: skip
        affine = [state[f"layers.{4 * number + 1}.{part}"][:, None, None] for part in ("weight", "bias")]
        if norm == "instance":
            mean, spread = images.mean((2, 3), keepdim=True), images.var((2, 3), keepdim=True, unbiased=False)
        else:
            mean, spread = (state[f"layers.{4 * number + 1}.running_{part}"][:, None, None] for part in ("mean", "var"))
        images = ((images - mean) / (spread + 1e-5).sqrt() * affine[0] + affine[1]).clamp(min=0)
        side = images.shape[-1] // 2
        images = images[..., : 2 * side, : 2 * side].unflatten(3, (side, 2)).unflatten(2, (side, 2)).mean((3, 5))
    return images.flatten(1) @ state[f"layers.{4 * depth + 1}.weight"].T + state[f"layers.{4 * depth + 1}.bias"]


@pytest.mark.parametrize(("norm", "channels", "padding", "size"), [
    ("batch", 3, 1, 32), ("instance", 1, 3, 28), ("instance", 3, 1, 34),
])  # fmt: skip
def test_convnet_is_the_formula(norm: str, channels: int, padding: int, size: int) -> None:
    net = changed(build("convnet3", channels=channels, size=size, width=6, norm=norm, first_padding=padding))
    images = torch.randn(2, channels, size, size, generator=generator("images"))
    state = {name: value.double() for name, value in net.state_dict().items()}
    expected = plain_convnet(state, images.double(), 3, norm, padding)
    torch.testing.assert_close(net(images), expected.float(), rtol=1e-4, atol=1e-5)


def test_grey_convnet_has_the_references_shape_at_28_pixels() -> None:
    """Minimax, train_models/convnet.py: images of 28 count as 32 pixels; the last layer has 128 · 4 · 4 inputs."""
    net = build("convnet3", size=28, channels=1, first_padding=3)
    assert net.features(torch.empty(1, 1, 28, 28)).shape == (1, 128 * 4 * 4)


def instance_norm(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    mean, spread = images.mean((2, 3), keepdim=True), images.var((2, 3), keepdim=True, unbiased=False)
    return (images - mean) / (spread + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]


def plain_resnet_ap(weights: list[torch.Tensor], images: torch.Tensor, kernel: int, pool: int) -> torch.Tensor:
    """IDC, models/resnet_ap.py; the weights of a block in its order: conv1, bn1, conv2, bn2, downsample."""
    take = iter(weights)

    def step(inputs: torch.Tensor, kernel: int) -> torch.Tensor:
        return functional.conv2d(inputs, next(take), padding=kernel // 2)

    hidden = functional.avg_pool2d(instance_norm(step(images, kernel), next(take), next(take)).relu(), pool)
    for stage in range(4):
        stride = 2 if stage else 1
        out = instance_norm(step(hidden, 3), next(take), next(take)).relu()
        out = functional.avg_pool2d(out, stride)
        out = instance_norm(step(out, 3), next(take), next(take))
        if stage:
            hidden = instance_norm(functional.avg_pool2d(step(hidden, 1), stride), next(take), next(take))
        hidden = (out + hidden).relu()
    return hidden.mean((2, 3)) @ next(take).T + next(take)


@pytest.mark.parametrize(("size", "kernel", "pool"), [(32, 3, 1), (65, 3, 2), (129, 7, 4)])
def test_resnet_ap_is_the_references(size: int, kernel: int, pool: int) -> None:
    net = changed(build("resnet_ap10", size=size, width=4))
    images = torch.randn(2, 3, size, size, generator=generator("images"))
    expected = plain_resnet_ap([value.double() for value in net.parameters()], images.double(), kernel, pool)
    torch.testing.assert_close(net(images), expected.float(), rtol=1e-3, atol=1e-4)
    assert net.features(images).shape == (2, 32)


def test_resnet_ap_starts_with_he_et_als_weights_by_the_fan_out() -> None:
    for name, weights in build("resnet_ap10").named_parameters():
        if weights.ndim == 4:
            assert weights.std().item() == pytest.approx(
                (2 / (weights.shape[0] * weights[0, 0].numel())) ** 0.5, rel=0.1
            )
        elif "head" not in name:
            assert weights.unique().item() in (0, 1)


@pytest.mark.parametrize(("norm", "reference"), [("instance", instance), ("batch", torchvision.models.resnet18)])
def test_resnet18_is_torchvisions_with_group_norms(norm: str, reference) -> None:
    net = changed(build("resnet18", size=130, norm=norm))
    other = reference(num_classes=10)
    other.load_state_dict(net.net.state_dict())
    images = torch.randn(1, 3, 130, 130, generator=generator("images"))
    assert torch.equal(net(images), other.eval()(images))
    assert torch.equal(other.fc(net.features(images)), net(images))


def test_the_stem_of_resnets_depends_on_the_size() -> None:
    for size, side, pooled in ((64, 64, False), (65, 65, True), (128, 128, True), (129, 65, True)):
        net = without_data("resnet18", size).net
        assert net.conv1(torch.empty(1, 3, size, size, device="meta")).shape[-1] == side
        assert isinstance(net.maxpool, nn.MaxPool2d) == pooled


def test_a_model_of_timm_is_timms() -> None:
    with pytest.raises(OptionError, match=r"unknown network 'vit_tiny_patch16_224'.*timm/NAME"):
        build("vit_tiny_patch16_224")
    net = build("timm/vit_tiny_patch16_224", channels=1, size=48, classes=3).eval()
    other = timm.create_model("vit_tiny_patch16_224", num_classes=3, in_chans=1, img_size=48)
    other.load_state_dict(net.net.state_dict())
    images = torch.randn(2, 1, 48, 48, generator=generator("images"))
    assert torch.equal(net(images), other.eval()(images))
    assert torch.equal(net.features(images), other.forward_head(other.forward_features(images), pre_logits=True))


@pytest.mark.parametrize(("name", "size"), [("timm/vit_tiny_patch16_224", 40), ("vit_b_16", 40)])
def test_patches_that_leave_out_the_edge_are_refused(name, size):
    with pytest.raises(OptionError, match=f"network {name} does not take images of {size} pixels"):
        build(name, size=size)


@pytest.mark.parametrize("name", ["resnet18", "small_vit", "timm/resnet10t"])
def test_weights_are_the_librarys_draws_from_the_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    net = build(name, size=160, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        if name == "resnet18":
            reference = torchvision.models.resnet18(num_classes=10)
        elif name == "small_vit":
            reference = torchvision.models.VisionTransformer(160, 8, 4, 4, 64, 256, num_classes=10)
        else:
            reference = timm.create_model("resnet10t", num_classes=10)
    for (key, weights), expected in zip(net.net.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(weights, expected), key


def test_operations_without_a_generator_of_their_own_are_seeded_too() -> None:
    before = torch.get_rng_state()
    with SeededMode(torch.Generator().manual_seed(1)):
        first = torch.randn(3), torch.rand(2), torch.randperm(5)
    with SeededMode(torch.Generator().manual_seed(1)):
        again = torch.randn(3), torch.rand(2), torch.randperm(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, again))
    assert torch.equal(first[0], torch.randn(3, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "small_vit"])
def test_grey_networks_see_grey_as_three_equal_channels(name: str) -> None:
    grey, colour = build(name, channels=1).eval(), build(name).eval()
    images = torch.randn(1, 1, 32, 32, generator=generator("images"))
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("name", list_networks("small_*"))
def test_small_networks(name: str, size: int) -> None:
    net = build(name, channels=1, size=size)
    images = torch.zeros(2, 1, size, size)
    assert net(images).shape == (2, 10)
    assert parameters(net) < 1_200_000


def test_names() -> None:
    assert list_networks("resnet*") == ["resnet_ap10", "resnet18", "resnet50", "resnet101"]
    assert not any(name.startswith("timm/") for name in list_networks())
    assert "timm/vit_tiny_patch16_224" in list_networks("timm/vit_tiny*")
    for name, hint in (("resnet181", "resnet18"), ("timm/vit_tiny_patch16_22", "timm/vit_tiny_patch16_224"), (3, "")):
        with pytest.raises(OptionError, match=f"unknown network .*{hint}"):
            build(name)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 28), ("vit_b_16", 28), ("small_vit", 36), ("convnet6", 63)])
def test_images_of_a_wrong_size_are_refused(name: str, size: int) -> None:
    with torch.device("meta"), pytest.raises(OptionError, match=f"{size}"):
        build(name, size=size)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(OptionError, match="unknown norm 'layer'"):
        build("convnet3", norm="layer")
