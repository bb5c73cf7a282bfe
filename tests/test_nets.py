"""Classifiers, augmentation and the training loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad, vmap

from dap.errors import OptionError
from dap.nets import (
    Network,
    accuracy,
    activation_bytes,
    create_net,
    images_at_once,
    list_nets,
    one_cycle,
    predict,
    shift_flip,
    train_classifier,
)
from dap.nets.convnet import ConvNet
from dap.nets.train import ClassifierTraining, _next_batch
from dap.nets.train_state import read_state, write_state
from dap.rng import generator


def net_of(seed: int = 0, *, width: int = 4, channels: int = 1, classes: int = 2, size: int = 16) -> nn.Module:
    return create_net(
        "convnet3", width=width, channels=channels, classes=classes, size=size, generator=generator(seed, "net")
    )


def toy(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy 16×16 images, the upper half bright or the left half: no shift or mirror makes them alike."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    half = np.where(np.arange(16) < 8, 220, 30)
    images = np.where(labels[:, None, None] == 0, half[:, None], half[None, :])
    images = (images + draw.integers(-25, 26, (count, 16, 16))).astype(np.uint8)
    return torch.tensor(images[:, None]), torch.tensor(labels)


def train_toy(seed: int, labels: torch.Tensor | None = None, **changes: object) -> nn.Module:
    images, own = toy(64, 1)
    net = net_of(seed)
    options = {"steps": 60, "batch_size": 32, "peak_lr": 1e-2, "weight_decay": 5e-4, "max_shift": 1, "device": "cpu"}
    train_classifier(
        net, images, own if labels is None else labels, generator=generator(seed, "train"), **(options | changes)
    )
    return net


class TestConvNet:
    @pytest.mark.parametrize(("depth", "channels", "size"), [(3, 1, 32), (2, 3, 13)])
    def test_is_the_hand_built_sequence(self, depth: int, channels: int, size: int) -> None:
        net = ConvNet(depth=depth, width=5, channels=channels, classes=7, size=size, generator=generator("a"))
        layers: list[nn.Module] = []
        for block in range(depth):
            layers += [nn.Conv2d(5 if block else channels, 5, 3, padding=1), nn.GroupNorm(5, 5), nn.ReLU()]
            layers += [nn.AvgPool2d(2)]
        layers += [nn.Flatten(), nn.Linear(5 * (size // 2**depth) ** 2, 7)]
        reference = nn.Sequential(*layers)
        with torch.no_grad():
            for weights in net.parameters():  # a norm that is an identity would hide a lost affine map
                weights.add_(torch.rand(weights.shape, generator=generator("affine")))
            for weights, own in zip(reference.parameters(), net.parameters(), strict=True):
                weights.copy_(own)
        images = torch.rand(3, channels, size, size, generator=generator("images")) * 2 - 1
        torch.testing.assert_close(net(images), reference.double()(images.double()).float(), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("width", "channels", "classes", "size"), [(32, 1, 10, 32), (8, 3, 4, 28)])
    def test_number_of_parameters(self, width: int, channels: int, classes: int, size: int) -> None:
        net = net_of(width=width, channels=channels, classes=classes, size=size)
        convolutions = 9 * width * (channels + 2 * width) + 3 * width
        expected = convolutions + 3 * 2 * width + classes * (width * (size // 8) ** 2 + 1)
        assert sum(weights.numel() for weights in net.parameters()) == expected

    def test_initial_weights_are_uniform_within_torchs_bounds(self) -> None:
        net = net_of(width=64, channels=3, size=32, classes=10)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = layer.weight[0].numel() ** -0.5
                assert 0.97 * bound < layer.weight.abs().max() <= bound
                assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
                assert 0.5 * bound < layer.bias.abs().max() <= bound
            if isinstance(layer, nn.GroupNorm):
                assert (layer.weight == 1).all()
                assert (layer.bias == 0).all()

    def test_weights_come_from_the_generator_alone(self) -> None:
        before = torch.get_rng_state()
        first, again, other = net_of(0), net_of(0), net_of(1)
        assert torch.equal(torch.get_rng_state(), before)
        for a, b in zip(first.parameters(), again.parameters(), strict=True):
            assert torch.equal(a, b)
        assert not torch.equal(next(first.parameters()), next(other.parameters()))

    def test_names(self) -> None:
        assert list_nets() == ["convnet3", "convnet4", "convnet5", "convnet6"]
        with pytest.raises(OptionError, match=r"unknown network 'convnet33'; did you mean 'convnet3'\?"):
            create_net("convnet33", width=4, channels=1, classes=2, size=8, generator=generator())

    @pytest.mark.parametrize("missing", ["features", "forward"])
    def test_a_network_that_lacks_a_part_cannot_be_made(self, missing: str) -> None:
        parts = {part: vars(ConvNet)[part] for part in ("features", "forward") if part != missing}
        with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
            type("Mine", (Network,), parts)()
        assert type("Whole", (Network,), parts | {missing: vars(ConvNet)[missing]})()

    @pytest.mark.parametrize(("name", "size"), [("convnet4", 64), ("convnet6", 256)])
    def test_gradients_of_colour_images_one_by_one(self, name: str, size: int) -> None:
        """Of images at which no ReLU has an input near 0, which would open in one of the two alone."""
        net = create_net(name, width=4, channels=3, classes=2, size=size, generator=generator())
        state, images = dict(net.named_parameters()), torch.rand(2, 3, size, size, generator=generator("images", 4))

        def loss(state: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
            return functional_call(net, state, (image[None],)).square().sum()

        rows = vmap(grad(loss), in_dims=(None, 0))(state, images)
        alone = torch.autograd.grad(net(images[1:]).square().sum(), list(net.parameters()))
        for row, expected in zip(rows.values(), alone, strict=True):
            torch.testing.assert_close(row[1], expected, rtol=1e-3, atol=1e-4)

    def test_too_small_images(self) -> None:
        with pytest.raises(OptionError, match="at least 8 pixels, got 7"):
            net_of(size=7)


class TestShiftFlip:
    def oracle(self, images: torch.Tensor, seed: int, max_shift: int) -> np.ndarray:
        """One image at a time: mirrored, laid on an empty canvas at an offset, cut."""
        draw = generator(seed)
        count, _, height, width = images.shape
        shifts = torch.randint(-max_shift, max_shift + 1, (count, 2), generator=draw).tolist()
        flips = (torch.rand(count, generator=draw) < 0.5).tolist()
        results = []
        for image, (down, right), flip in zip(images.numpy(), shifts, flips, strict=True):
            canvas = np.full((image.shape[0], height + 2 * max_shift, width + 2 * max_shift), -1.0, np.float32)
            top, left = max_shift + down, max_shift + right
            canvas[:, top : top + height, left : left + width] = image[:, :, ::-1] if flip else image
            results.append(canvas[:, max_shift : max_shift + height, max_shift : max_shift + width])
        return np.stack(results)

    @pytest.mark.parametrize("max_shift", [0, 1, 3])
    def test_is_the_loop_over_images(self, max_shift: int) -> None:
        images = torch.rand(40, 2, 9, 7, generator=generator("images"))
        found = shift_flip(images, generator(5), max_shift)
        np.testing.assert_array_equal(found.numpy(), self.oracle(images, 5, max_shift))

    @pytest.mark.parametrize(("side", "largest"), [(1, 0), (28, 3), (32, 3), (64, 6), (256, 24)])
    def test_the_largest_shift_is_a_share_of_the_side(self, side: int, largest: int) -> None:
        images = torch.rand(4, 1, side, side, generator=generator("images"))
        found = shift_flip(images, generator(5))
        assert torch.equal(found, shift_flip(images, generator(5), largest))

    def test_every_shift_and_both_mirrors_are_as_likely(self) -> None:
        images = torch.full((4000, 1, 8, 8), -1.0)
        images[:, 0, 3, 3] = 1.0  # its mirror image is at x = 4
        rows, columns = torch.nonzero(shift_flip(images, generator(0), 1)[:, 0] == 1, as_tuple=True)[1:]
        np.testing.assert_allclose(np.bincount(rows)[2:] / 4000, [1 / 3] * 3, atol=0.03)
        np.testing.assert_allclose(np.bincount(columns)[2:] / 4000, [1 / 6, 1 / 3, 1 / 3, 1 / 6], atol=0.03)

    def test_leaves_its_input_and_global_state_alone(self) -> None:
        images = torch.rand(4, 1, 8, 8, generator=generator("images"))
        copy, before = images.clone(), torch.get_rng_state()
        shift_flip(images, generator(0))
        assert torch.equal(images, copy)
        assert torch.equal(torch.get_rng_state(), before)


class TestTraining:
    def test_learns_what_can_be_learnt(self) -> None:
        assert accuracy(train_toy(0), *toy(200, 2), "cpu") > 0.95

    def test_learns_nothing_from_shuffled_labels(self) -> None:
        _, labels = toy(64, 1)
        shuffled = labels[torch.randperm(64, generator=generator("shuffle"))]
        assert 0.2 < accuracy(train_toy(0, shuffled), *toy(200, 2), "cpu") < 0.8

    def test_same_seed_same_weights(self) -> None:
        before = torch.get_rng_state()
        first, again, other = train_toy(0), train_toy(0), train_toy(1)
        assert torch.equal(torch.get_rng_state(), before)
        for a, b in zip(first.parameters(), again.parameters(), strict=True):
            assert torch.equal(a, b)
        assert not torch.equal(next(first.parameters()), next(other.parameters()))

    def test_a_step_in_parts_and_images_by_a_function_are_the_same_step(self) -> None:
        images, labels = toy(64, 1)
        options = {"steps": 3, "batch_size": 20, "peak_lr": 1e-2, "weight_decay": 0.0, "device": "cpu"}
        nets = [net_of(0) for _ in range(3)]
        for net, given, at_once in zip(nets, (images, images.__getitem__, images), (None, None, 8), strict=True):
            train_classifier(net, given, labels, generator=generator(0, "train"), at_once=at_once, **options)
        whole, streamed, parts = (dict(net.named_parameters()) for net in nets)
        for name, weights in whole.items():
            assert torch.equal(streamed[name], weights)
            if name.endswith("weight"):  # a bias before a norm has no gradient: Adam makes noise of its rounding
                torch.testing.assert_close(parts[name], weights, rtol=2e-3, atol=2e-4)

    def test_hook_sees_every_step(self) -> None:
        steps: list[int] = []
        train_toy(0, steps=5, after_step=lambda net, step: steps.append(step))
        assert steps == [1, 2, 3, 4, 5]

    def test_is_adamw_under_torchs_one_cycle(self) -> None:
        images, labels = toy(20, 1)
        options = {"steps": 6, "batch_size": 16, "peak_lr": 0.02, "weight_decay": 0.3, "max_shift": 2}
        net = net_of(0)
        train_classifier(net, images, labels, generator=generator("loop"), device="cpu", **options)

        reference, draw = net_of(0), generator("loop")
        optimizer = torch.optim.AdamW(reference.parameters(), lr=1.0, weight_decay=0.3, foreach=False)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=6)
        order: list[int] = []
        for _ in range(6):
            if len(order) < 16:
                order += torch.randperm(20, generator=draw).tolist()
            batch, order = order[:16], order[16:]
            pixels = shift_flip((images[batch].double() / 255 * 2 - 1).float(), draw, 2)
            optimizer.zero_grad()
            nn.functional.cross_entropy(reference(pixels), labels[batch]).backward()
            optimizer.step()
            schedule.step()
        for name, weights in net.named_parameters():
            if name.endswith("weight"):  # a bias before a norm has no gradient: Adam makes noise of its rounding
                torch.testing.assert_close(weights, reference.get_parameter(name), rtol=2e-3, atol=2e-4)

    def test_one_cycle_is_the_closed_form(self) -> None:
        optimizer, schedule = one_cycle(net_of(), peak_lr=3e-3, weight_decay=0.0, steps=400)
        found = []
        for _ in range(400):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        step = np.arange(400)
        rise = 3e-3 / 25 + (3e-3 - 3e-3 / 25) * (1 - np.cos(np.pi * step / 119)) / 2
        fall = 3e-3 / 25e4 + (3e-3 - 3e-3 / 25e4) * (1 + np.cos(np.pi * (step - 119) / 280)) / 2
        np.testing.assert_allclose(found, np.where(step <= 119, rise, fall), rtol=1e-6)

    def test_batches_use_every_image_equally_often(self) -> None:
        draw, order, batches = generator("order"), torch.empty(0, dtype=torch.int64), []
        for _ in range(5):
            batch, order = _next_batch(order, 10, 4, draw)
            batches.append(batch)
        assert [len(batch) for batch in batches] == [4] * 5
        order = torch.cat(batches)
        assert sorted(order[:10].tolist()) == sorted(order[10:].tolist()) == list(range(10))
        assert order[:10].tolist() != order[10:].tolist()

    def test_a_saved_state_continues_to_the_same_bits(self, tmp_path: Path) -> None:
        images, labels = toy(40, 0)

        def begin() -> ClassifierTraining:
            return ClassifierTraining(
                net_of(), images, labels, steps=9, batch_size=16, peak_lr=3e-3, weight_decay=0.1,
                generator=generator("train"), device="cpu",
            )  # fmt: skip

        whole = begin()
        while whole.done < 9:
            whole.step()
            if whole.done == 4:  # within a permutation
                write_state(tmp_path / "state", whole.state())
        again = begin()
        again.restore(read_state(tmp_path / "state"))
        assert again.done == 4
        while again.done < 9:
            again.step()
        for ours, expected in zip(again.net.parameters(), whole.net.parameters(), strict=True):
            assert torch.equal(ours, expected)
        (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-100])
        assert read_state(tmp_path / "state") is None and read_state(tmp_path / "none") is None

    def test_threads_are_left_as_they_were(self) -> None:
        before = torch.get_num_threads()
        train_toy(0, steps=2)
        assert torch.get_num_threads() == before


class TestActivations:
    def test_are_what_autograd_keeps(self) -> None:
        net, (images, _) = net_of(width=8, channels=3, size=16), (torch.rand(2, 3, 16, 16), None)
        kept: dict[int, torch.Tensor] = {}
        weights = {parameter.data_ptr() for parameter in net.parameters()}
        with saved_tensors_hooks(lambda tensor: kept.setdefault(tensor.data_ptr(), tensor), lambda tensor: tensor):
            net(images)
        found = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
        assert activation_bytes(net, (3, 16, 16)) == pytest.approx(found / 2, rel=0.02)

    def test_decide_how_many_images_fit(self) -> None:
        for name, size, expected in (("convnet3", 32, range(128, 2**20)), ("convnet6", 256, range(10, 40))):
            net = create_net(name, width=128, channels=3, classes=10, size=size, generator=generator())
            assert images_at_once(net, (3, size, size)) in expected


class TestPredict:
    def test_is_the_same_in_any_batch_and_keeps_the_mode(self) -> None:
        net, (images, labels) = net_of(3).train(), toy(150, 4)
        found = predict(net, images, "cpu")
        assert net.training
        with torch.no_grad():
            one_by_one = torch.stack([net(image[None] / 127.5 - 1)[0].argmax() for image in images])
        assert torch.equal(found, one_by_one)
        assert accuracy(net, images, labels, "cpu") == np.mean(one_by_one.numpy() == labels.numpy())
