"""Published protocols: their constants by source and line, their augmentation, and the loop that trains by them."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import arrays, source
from torch import nn
from torch.nn import functional
from torchvision.transforms import functional as vision

from dap import _core, rng
from dap.errors import DivergedError, FormatError, OptionError, SourceError
from dap.evaluation import Small, evaluate_sets, evaluate_source, labelling, named_protocol, run_protocol, training
from dap.evaluation import run as run_module
from dap.evaluation import sets as sets_module
from dap.evaluation import source as source_module
from dap.evaluation.augment import Draws, _by_torch, _colours, apply, centre, cutmix, draw
from dap.evaluation.checkpoint import read_checkpoint, write_checkpoint
from dap.evaluation.optimiser import parameter_groups
from dap.evaluation.protocols.rded import RDED
from dap.evaluation.recipe import Case, Recipe
from dap.nets import create_net

TINY = {"size": 16, "epochs": 3, "width": 4}
NAMES = ["up", "left"]


def recipe(protocol: str = "hard", network: str = "convnet6", ipc: int = 10, classes: int = 10, side: int = 224,
           **options: object) -> Recipe:  # fmt: skip
    return Recipe(**named_protocol(protocol, options).constants(Case(network, ipc, classes, side)))


class TestConstants:
    def test_hard_is_minimaxs(self) -> None:
        """Minimax, argument.py 93-135; train.py 101-108; data.py, transform_imagenet."""
        found = recipe()
        assert (found.size, found.test_side, found.own_size) == (224, 224, False)
        assert (found.optimiser, found.lr, found.momentum, found.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
        assert (found.decay_all, found.batch_size, found.epochs, found.norm) == (True, 64, 2000, "instance")
        assert (found.crop, found.flip, found.jitter, found.lighting, found.cutmix) == (0.5, True, 0.4, 0.1, 1.0)
        assert (found.labels, found.strips, found.grey_padding, found.checks) == ("hard", 1, 3, 100)

    @pytest.mark.parametrize(("ipc", "ten", "hundred"), [
        (1, 3000, 2000), (2, 2000, 1300), (10, 2000, 1300), (11, 1500, 1000), (50, 1500, 1000), (51, 1000, 600),
        (200, 1000, 600), (201, 500, 300), (500, 500, 300), (501, 300, 200),
    ])  # fmt: skip
    def test_epochs(self, ipc: int, ten: int, hundred: int) -> None:
        """Minimax, argument.py 18-43; every epoch table divides into 100 checks."""
        assert (recipe(ipc=ipc).epochs, recipe(ipc=ipc, classes=100).epochs) == (ten, hundred)
        assert recipe(ipc=ipc).checks == recipe(ipc=ipc, classes=100).checks == 100

    @pytest.mark.parametrize(("protocol", "classes", "many"), [
        ("hard", 100, False), ("hard", 101, True), ("hard:idc", 99, False), ("hard:idc", 100, True),
    ])  # fmt: skip
    def test_many_classes(self, protocol: str, classes: int, many: bool) -> None:
        """IDC, argument.py 301-307: from 100 classes on; Minimax, argument.py: above 100."""
        found = recipe(protocol, classes=classes)
        assert (found.lr, found.weight_decay, found.batch_size) == ((0.1, 1e-4, 128) if many else (0.01, 5e-4, 64))

    def test_variants(self) -> None:
        assert [recipe("hard:mgd3", ipc=ipc).epochs for ipc in (10, 20, 100)] == [2000, 1500, 1500]
        assert recipe("hard:mgd3").checks == 2000
        igd = recipe("hard:igd")
        assert (igd.optimiser, igd.lr, igd.weight_decay, igd.size) == ("adamw", 1e-3, 0.01, 256)
        known = {name: run_module.PROTOCOLS[name].known for name in ("hard", "hard:idc", "hard:igd", "rded")}
        assert known == {"hard": "whole", "hard:idc": "whole", "hard:igd": "partly", "rded": "whole"}

    def test_rded(self) -> None:
        """RDED, argument.py 233-315; validation/main.py 87-126, 154, 179-180; validation/utils.py, get_parameters."""
        found = recipe("rded", "resnet18")
        assert (found.optimiser, found.lr, found.weight_decay, found.decay_all) == ("adamw", 1e-3, 0.01, False)
        assert (found.epochs, found.temperature, found.labels, found.second_forward) == (300, 20.0, "teacher", True)
        assert (found.size, found.test_side, found.own_size, found.norm) == (224, 256, True, "batch")
        assert (found.strips, found.crop, found.jitter, found.lighting, found.cutmix) == (2, None, 0, 0, 1.0)
        assert found.grey_padding == recipe("fkd").grey_padding == 3
        assert [recipe("rded", side=side).test_side for side in (32, 64, 224)] == [32, 72, 144]
        assert [epoch for epoch in range(300) if found.is_tested(epoch)] == [249, 259, 269, 279, 289, 299]
        rates = {"vgg11": 5e-4, "efficientnet_b0": 2e-3, "mobilenet_v2": 2.5e-3, "swin_v2_t": 1e-4, "resnet101": 1e-3}
        assert {name: recipe("rded", name).lr for name in rates} == rates
        batches = [(1, 10), (10, 10), (50, 10), (10, 100), (50, 1000), (50, 200)]
        assert [recipe("rded", ipc=ipc, classes=classes).batch_size for ipc, classes in batches] == [
            10, 50, 100, 100, 200, 100,
        ]  # fmt: skip
        cifar = recipe("rded", "convnet3", classes=100, side=32)
        assert (cifar.batch_size, cifar.lr, cifar.size) == (25, 2e-3, 32)

    def test_schedules_are_torchs(self) -> None:
        """Minimax, train.py 107-108; RDED, validation/main.py 95-102."""
        schedules = {
            "steps": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2 * 50 // 3, 5 * 50 // 6], 0.2),
            "half cosine": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * step / 50 / 2))
            ),
            "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50),
        }
        for name, make in schedules.items():
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
            schedule, found = make(optimizer), recipe(epochs=50, schedule=name)
            for epoch in range(50):
                assert optimizer.param_groups[0]["lr"] == pytest.approx(found.rate(epoch))
                optimizer.step()
                schedule.step()
        assert recipe("rded").rate(299) == pytest.approx(0.5e-3, rel=0.01)

    def test_options(self) -> None:
        assert recipe(epochs=7).checks == 7
        for options, message in (
            ({"epoch": 3}, "unknown option of protocol 'hard' 'epoch'; did you mean 'epochs'"),
            ({"epochs": 0}, "epochs: expected a whole number"), ({"flip": 1}, "flip: expected true or false"),
            ({"schedule": "step"}, "unknown schedule 'step'; did you mean 'steps'"),
            ({"cutmix": 2}, "cutmix: expected"),
        ):  # fmt: skip
            with pytest.raises(OptionError, match=message):
                named_protocol("hard", options)
        assert named_protocol("small", {"few_steps": 7}).few_steps == 7


def images_of(count: int, channels: int, side: int) -> torch.Tensor:
    return torch.randint(256, (count, channels, side, side), generator=rng.generator("images")).to(torch.uint8)


def grey(image: torch.Tensor) -> torch.Tensor:
    """Minimax, misc/utils.py 237-243."""
    if len(image) == 1:
        return image
    return (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]).expand_as(image)


def one_image(image: torch.Tensor, draws: Draws, number: int, size: int, order: tuple[int, ...]) -> torch.Tensor:
    """The references' transforms of one image: data.py, transform_imagenet, with misc/utils.py 207-289."""
    top, left, height, width = draws.boxes[number].tolist()
    image = vision.resized_crop(image.float() / 255, top, left, height, width, [size, size], antialias=True)
    image = vision.hflip(image) if draws.flips[number] else image
    references = (torch.zeros_like, lambda image: grey(image).mean().expand_as(image), grey)
    for change in order:
        image = image.lerp(references[change](image), draws.jitter[number, change].item())
    if len(image) == 3:
        vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
        values = torch.tensor([0.2175, 0.0188, 0.0045])
        image = image + (vectors * draws.lighting[number] * values).sum(1)[:, None, None]
        return vision.normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return (image - 0.449) / 0.226


class TestAugmentation:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_same_draws_same_pixels_as_one_image_at_a_time(self, channels: int) -> None:
        """In every order of brightness, contrast and saturation: without clamping they commute."""
        found = recipe(size=20)
        images, draws = images_of(6, channels, 24), draw(found, 6, 24, rng.generator(3))
        batch = apply(images, draws, found)
        for number, order in enumerate(permutations(range(3))):
            expected = one_image(images[number], draws, number, 20, order)
            torch.testing.assert_close(batch[number], expected, rtol=1e-4, atol=2e-5)
        assert batch.max() > (1 - 0.449) / 0.226 or channels == 3  # brighter than white: nothing is clamped

    def test_larger_images_are_antialiased(self) -> None:
        found = recipe(size=7)
        images, draws = images_of(6, 3, 40), draw(found, 6, 40, rng.generator(3))
        for number, image in enumerate(apply(images, draws, found)):
            expected = one_image(images[number], draws, number, 7, (0, 1, 2))
            torch.testing.assert_close(image, expected, rtol=1e-4, atol=2e-5)

    @pytest.mark.parametrize(("protocol", "channels", "side", "size"), [
        ("rded", 3, 31, 12), ("hard", 1, 20, 20), ("rded", 3, 12, 20),
    ])  # fmt: skip
    def test_rust_and_torch_give_the_same_pixels(self, protocol: str, channels: int, side: int, size: int) -> None:
        """Other devices than a CPU take torch's way; some of the images, written into a larger buffer."""
        found, rows = recipe(protocol, size=size), torch.tensor([5, 0, 5])
        images, draws = images_of(6, channels, side), draw(found, 3, side, rng.generator(2))
        buffer = torch.full((4, channels, size, size), 7.0)
        by_rust = apply(images, draws, found, rows=rows, out=buffer)
        by_torch = _by_torch(images[rows], draws, _colours(draws, channels), torch.empty(3, channels, size, size))
        torch.testing.assert_close(by_rust, by_torch, rtol=1e-4, atol=2e-5)
        assert by_rust.data_ptr() == buffer.data_ptr() and (buffer[3] == 7).all()

    @pytest.mark.parametrize(("name", "value", "message"), [
        ("boxes", [[0, 0, 0, 5]], "expected a part inside of 8×8 pixels, got .* = .0, 0, 0, 5."),
        ("boxes", [[4, 0, 5, 5]], "expected a part inside"), ("boxes", [[-1, 0, 5, 5]], "got -1"),
        ("strips", [[[0, 2], [0, 1]]], "expected a row below 2"), ("rows", [2], "expected a row below 2, got 2"),
    ])  # fmt: skip
    def test_draws_that_do_not_fit_are_refused(self, name: str, value: list[object], message: str) -> None:
        draws: dict[str, object] = {
            "images": np.zeros((2, 3, 8, 8), np.uint8), "rows": [1], "strips": [[[0, 1], [1, 0]]],
            "boxes": [[0, 0, 8, 8]], "flips": np.array([True]), "colours": np.zeros((1, 3, 7), np.float32),
            "out": np.zeros((1, 3, 4, 4), np.float32),
        }  # fmt: skip
        draws = {key: np.array(entry) if isinstance(entry, list) else entry for key, entry in draws.items()}
        _core.resized_crops(**draws)
        with pytest.raises(ValueError, match=message):
            _core.resized_crops(**draws | {name: np.array(value)})

    @pytest.mark.parametrize("cropped", [False, True])
    def test_strips_are_rdeds(self, cropped: bool) -> None:
        """RDED, validation/utils.py 150-182: columns, then rows; the last strip has the rest.

        Then validation/main.py 119-126: a random crop of a third of the area and more, and mirroring.
        """
        found = recipe("rded", strips=3, size=11)
        images, draws = images_of(20, 3, 11), draw(found, 20, 11, rng.generator(1))
        if not cropped:
            draws = draws._replace(boxes=torch.tensor([0, 0, 11, 11]).expand(20, 4))
        edges = [(0, 3), (3, 6), (6, 11)]
        for image, (columns, rows), box, flip, result in zip(
            images, draws.strips.tolist(), draws.boxes.tolist(), draws.flips, apply(images, draws, found), strict=True
        ):
            image = torch.cat([image[:, :, slice(*edges[number])] for number in columns], 2)
            image = torch.cat([image[:, slice(*edges[number])] for number in rows], 1)
            image = vision.resized_crop(image.float() / 255, *box, [11, 11], antialias=True)
            image = vision.hflip(image) if flip else image
            expected = vision.normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=2e-5)
        assert draws.flips.any() and not draws.flips.all()
        orders = {tuple(order) for order in draws.strips.flatten(0, 1).tolist()}
        assert len(orders) == 6

    def test_draws_have_the_references_distribution(self) -> None:
        draws = draw(recipe(), 4000, 224, rng.generator(0))
        assert draws.flips.float().mean() == pytest.approx(0.5, abs=0.03)
        assert draws.jitter.abs().max() <= 0.4
        torch.testing.assert_close(draws.jitter.std(0), torch.full((3,), 0.8 / 12**0.5), rtol=0.05, atol=0)
        torch.testing.assert_close(draws.lighting.std(0), torch.full((3,), 0.1), rtol=0.05, atol=0)
        areas = (draws.boxes[:, 2] * draws.boxes[:, 3]) / 224**2
        assert areas.min() > 0.49
        assert draw(recipe("rded", strips=1), 50, 224, rng.generator(0)).boxes.float().mean(0).tolist() == [
            0,
            0,
            224,
            224,
        ]

    def test_cutmix_is_the_references(self) -> None:
        """Minimax, train.py 184-196 and misc/utils.py, rand_bbox: the share is that of the clipped box."""
        for seed in range(30):
            images = torch.rand(5, 3, 9, 9, generator=rng.generator("images"))
            mixed = images.clone()
            partners, share = cutmix(mixed, rng.generator(seed))
            generator = rng.generator(seed)
            order = torch.randperm(5, generator=generator)
            cut = int(9 * np.sqrt(1.0 - torch.rand((), generator=generator).item()))
            x, y = torch.randint(9, (2,), generator=generator).tolist()
            x1, y1, x2, y2 = (
                np.clip(value, 0, 9) for value in (x - cut // 2, y - cut // 2, x + cut // 2, y + cut // 2)
            )
            expected = images.clone()
            expected[:, :, x1:x2, y1:y2] = images[order, :, x1:x2, y1:y2]
            assert torch.equal(mixed, expected)
            assert torch.equal(partners, order)
            assert share == pytest.approx(1 - (x2 - x1) * (y2 - y1) / 81)

    def test_centre(self) -> None:
        images = images_of(2, 3, 72)
        assert torch.equal(centre(images, 64), vision.center_crop(images, [64, 64]))
        assert centre(images, 72) is not None and torch.equal(centre(images, 72), images)


def test_biases_and_norms_decay_only_where_the_source_says_so() -> None:
    net = create_net("convnet3", channels=3, classes=2, size=16, width=4, generator=torch.Generator())
    decayed, spared = parameter_groups(net, recipe("rded"))
    assert all(value.ndim > 1 for value in decayed["params"]) and all(value.ndim == 1 for value in spared["params"])
    assert spared["weight_decay"] == 0
    assert [len(group["params"]) for group in parameter_groups(net, recipe())] == [14]


def trained(protocol: str = "hard", **changes: object) -> object:
    images, labels = arrays({"up": 6, "left": 6})
    test, test_labels = arrays({"up": 20, "left": 20}, first=100)
    options = {"protocol_options": TINY, "device": "cpu", "classes": 2} | changes
    return run_protocol(images, labels, test, test_labels, protocol=protocol, **options)


class Teacher(nn.Module):
    """A teacher that knows the classes: the brightness of the upper and the left half."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.stack([images[:, 0, :8].mean((1, 2)), images[:, 0, :, :8].mean((1, 2))], 1)


class TestLoop:
    def test_is_the_references_loop(self) -> None:
        """Minimax, train.py 100-216: SGD on mixed images, the rate by epoch, the rest as a smaller batch."""
        found, draws = recipe(**TINY | {"batch_size": 8}), rng.generator(5, "evaluate", "convnet3", 0)
        images, labels = arrays({"up": 6, "left": 6})
        net = create_net("convnet3", channels=1, classes=2, size=16, width=4, generator=draws, first_padding=3)
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2], 0.2)
        for _ in range(3):
            torch.randint(2**62, (), generator=draws)
            for rows in torch.randperm(12, generator=draws).split(8):
                inputs = apply(torch.tensor(images)[rows], draw(found, len(rows), 16, draws), found)
                torch.rand((), generator=draws)
                partners, share = cutmix(inputs, draws)
                targets = torch.tensor(labels)[rows]
                logits = net(inputs)
                loss = functional.cross_entropy(logits, targets) * share
                loss = loss + functional.cross_entropy(logits, targets[partners]) * (1 - share)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        seen = {}
        original = training.accuracy_on
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "accuracy_on", lambda net, *rest: seen.update(net=net) or original(net, *rest))
            trained(protocol_options=TINY | {"batch_size": 8}, seed=5)
        for name, weights in seen["net"].named_parameters():
            torch.testing.assert_close(weights, net.get_parameter(name), rtol=1e-3, atol=1e-5)

    def test_learns(self) -> None:
        assert trained(protocol_options=TINY | {"epochs": 40, "lr": 0.1, "width": 8}).last > 80

    def test_bfloat16_is_close_to_float32_and_named(self) -> None:
        sets, test = {"a": arrays({"up": 6, "left": 6})}, arrays({"up": 50, "left": 50}, first=100)
        options = TINY | {"epochs": 40, "lr": 0.1, "width": 8}
        results = {
            precision: evaluate_sets(
                sets, test, class_names=NAMES, protocol="hard", repeats=1, device="cpu",
                protocol_options=options | {"precision": precision},
            )
            for precision in ("float32", "bfloat16")
        }  # fmt: skip
        last = {precision: result.rows[0].last[0] for precision, result in results.items()}
        assert min(last.values()) > 80 and abs(last["bfloat16"] - last["float32"]) <= 5
        assert results["bfloat16"].rows[0].constants["precision"] == "bfloat16"
        assert "precision=bfloat16" in results["bfloat16"].table()

    def test_bfloat16_computes_in_bfloat16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dtypes = []
        loss = training._loss

        def spy(net: nn.Module, *rest: object) -> torch.Tensor:
            handle = net.layers[0].register_forward_hook(lambda layer, inputs, output: dtypes.append(output.dtype))
            try:
                return loss(net, *rest)
            finally:
                handle.remove()

        monkeypatch.setattr(training, "_loss", spy)
        trained(protocol_options=TINY | {"precision": "bfloat16"})
        assert set(dtypes) == {torch.bfloat16}

    @pytest.mark.parametrize(
        ("norm", "layout"), [("instance", torch.contiguous_format), ("batch", torch.channels_last)]
    )
    def test_memory_layout_of_a_cpu(self, norm: str, layout: torch.memory_format) -> None:
        net = create_net("convnet3", channels=3, classes=2, size=16, width=4, norm=norm, generator=torch.Generator())
        assert training.memory_layout(net, torch.device("cpu")) == layout
        assert training.memory_layout(net, torch.device("cuda")) == torch.channels_last

    def test_soft_labels_teach_and_statistics_move_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """RDED, validation/main.py 211-226: the labels of the set do not matter, and the images go through twice."""
        nets = []
        original = training.accuracy_on
        monkeypatch.setattr(training, "accuracy_on", lambda net, *rest: nets.append(net) or original(net, *rest))
        images, labels = arrays({"up": 6, "left": 6})
        test, test_labels = arrays({"up": 20, "left": 20}, first=100)
        options = TINY | {
            "epochs": 40,
            "margin": False,
            "strips": 1,
            "flip": False,
            "lr": 0.02,
            "width": 8,
            "cutmix": 0,
        }
        result = run_protocol(images, 1 - labels, test, test_labels, classes=2, protocol="rded", device="cpu",
                              protocol_options=options, teacher=Teacher())  # fmt: skip
        assert result.last > 80
        assert nets[-1].layers[1].num_batches_tracked == 2 * 40

    def test_the_step_is_rdeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """RDED, validation/main.py 211-226: student and teacher see the mixed batch; KLDivLoss(batchmean), T = 20.

        By SGD, because AdamW does not see a factor of the loss. In float64, with the training's own draws.
        """
        weights: list[dict[str, torch.Tensor]] = []
        original = training.accuracy_on

        def spy(net: nn.Module, *rest: object) -> float:
            weights.append({name: value.clone() for name, value in net.state_dict().items()})
            return original(net, *rest)

        monkeypatch.setattr(training, "accuracy_on", spy)
        options = TINY | {"optimiser": "sgd", "lr": 3.0, "margin": False, "batch_size": 5}
        trained("rded", teacher=Teacher(), protocol_options=options)
        found, generator = recipe("rded", **options), rng.generator(0, "evaluate", "convnet3", 0)
        images = torch.tensor(arrays({"up": 6, "left": 6})[0])
        net = create_net("convnet3", channels=1, classes=2, size=16, width=4, norm="batch", generator=generator,
                         first_padding=3).double()  # fmt: skip
        optimizer = torch.optim.SGD(parameter_groups(net, found), lr=3.0, momentum=0.9, weight_decay=0.01)
        for epoch in range(3):
            torch.randint(2**62, (), generator=generator)  # the seed of dropout
            for group in optimizer.param_groups:
                group["lr"] = 3.0 * (1 + np.cos(np.pi * epoch / 6)) / 2
            for rows in torch.randperm(12, generator=generator).split(5):
                mixed = apply(images[rows], draw(found, len(rows), 16, generator), found)
                torch.rand((), generator=generator)  # CutMix has a probability of 1
                cutmix(mixed, generator)
                net(mixed.double())
                target = functional.softmax(Teacher()(mixed).double() / 20, 1)
                output = functional.log_softmax(net(mixed.double()) / 20, 1)
                optimizer.zero_grad()
                nn.KLDivLoss(reduction="batchmean")(output, target).backward()
                optimizer.step()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(weights[-1][name].double(), value.double(), rtol=1e-4, atol=1e-5)
        assert int(net.layers[1].num_batches_tracked) == 2 * 3 * 3

    @pytest.mark.parametrize("network", ["mobilenet_v2"])
    def test_dropout_is_seeded_and_the_callers_random_state_is_left(self, network: str) -> None:
        before = torch.get_rng_state()
        options = {"size": 16, "epochs": 1, "jitter": 0.0}
        first, again = (trained(network=network, protocol_options=options) for _ in range(2))
        assert first == again
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("protocol", ["hard", "rded"])
    def test_a_stopped_training_ends_with_the_same_numbers(
        self, protocol: str, tmp_path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"protocol_options": TINY | {"epochs": 6, "cadence": "epoch", "margin": False}}
        options |= {"teacher": Teacher()} if protocol == "rded" else {}
        whole: list[torch.Tensor] = []
        original = training.accuracy_on

        def spy(net: nn.Module, *rest: object) -> float:
            whole.append(net.layers[0].weight.detach().clone())
            return original(net, *rest)

        monkeypatch.setattr(training, "accuracy_on", spy)
        uncut, expected = trained(protocol, **options), whole[-1]
        monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
        whole.clear()

        def killed(*arguments: object) -> float:
            if len(whole) == 3:
                raise KeyboardInterrupt
            return spy(*arguments)

        monkeypatch.setattr(training, "accuracy_on", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(protocol, checkpoint=tmp_path / "kept.safetensors", **options)
        monkeypatch.setattr(training, "accuracy_on", spy)
        whole.clear()
        assert trained(protocol, checkpoint=tmp_path / "kept.safetensors", **options) == uncut
        assert len(whole) == 3
        assert torch.equal(whole[-1], expected)
        (tmp_path / "kept.safetensors").write_bytes(b"damaged")
        with pytest.raises(FormatError, match="not a checkpoint of this training"):
            trained(protocol, checkpoint=tmp_path / "kept.safetensors", **options)

    def test_a_checkpoint_of_another_training_is_refused(self, tmp_path) -> None:
        kept = tmp_path / "kept.safetensors"
        first = trained(checkpoint=kept)
        assert trained(checkpoint=kept) == first
        for changes in (
            {"seed": 5}, {"protocol_options": TINY | {"lr": 0.5}}, {"protocol_options": TINY | {"epochs": 2}},
            {"network": "convnet4"}, {"weights": np.full(12, 1.0, np.float32)},
        ):  # fmt: skip
            with pytest.raises(FormatError, match="not a checkpoint of this training"):
                trained(checkpoint=kept, **changes)

    def test_a_step_too_small_for_batch_normalisation_is_named(self) -> None:
        options = {"protocol_options": {"size": 32, "epochs": 1, "batch_size": 11}, "network": "mobilenet_v2"}
        test = np.zeros((2, 1, 32, 32), np.uint8), np.array([0, 1])
        images, labels = arrays({"up": 6, "left": 6})
        with pytest.raises(OptionError, match="batch_size: a step with one of 12 images is too small for the batch no"):
            run_protocol(images, labels, *test, protocol="hard", device="cpu", classes=2, **options)

    def test_a_checkpoint_keeps_the_memory_format_of_the_optimisers_state(self, tmp_path) -> None:
        """Sums are rounded in another way in another format, so that a continued training would differ."""
        strides = []
        for read in (False, True):
            net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
            optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
            if read:
                read_checkpoint(tmp_path / "kept.safetensors", net, optimizer, torch.Generator(), identity="a")
            else:
                net(torch.ones(1, 3, 3, 3)).sum().backward()
                optimizer.step()
                write_checkpoint(tmp_path / "kept.safetensors", net, optimizer, torch.Generator(), 1, [], identity="a")
            strides.append(optimizer.state[net.weight]["momentum_buffer"].stride())
        assert strides == [(27, 1, 9, 3)] * 2

    def test_a_loss_that_is_not_finite_is_named(self) -> None:
        with pytest.raises(DivergedError, match=r"the loss of epoch \d of 3 is (nan|inf) .*lower the option lr"):
            trained(protocol_options=TINY | {"lr": 1e30})
        with pytest.raises(DivergedError, match=r"the loss of a classifier is (nan|inf) after 9 steps .*peak_lr"):
            trained("small", protocol_options={"few_steps": 9, "peak_lr": 1e30, "checks": 1})

    def test_refusals(self) -> None:
        images, labels = arrays({"up": 3, "left": 3})
        for changes, message in (
            ({"protocol": "rded"}, "protocol 'rded' trains on the labels of a teacher: give teacher="),
            ({"teacher": Teacher()}, "protocol 'hard' trains on hard labels: leave teacher= out"),
            ({"protocol": "small", "protocol_options": None, "teacher": Teacher()}, "'small' trains on hard labels"),
            ({"protocol_options": {"size": 32}}, r"expected uint8 test images with shape \(40, 1, 32, 32\), got uint8"),
            ({"classes": 1}, "expected labels in 0 … 0, got 0 … 1"),
        ):  # fmt: skip
            with pytest.raises(OptionError, match=message):
                trained(**changes)
        with pytest.raises(OptionError, match="expected test labels in 0 … 1, got 0 … 2"):
            run_protocol(images, labels, images, 2 * labels, classes=2, protocol="hard", protocol_options=TINY)


class TestEvaluation:
    def test_an_evaluation_continues_from_its_folder(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, test = {"a": arrays({"up": 3, "left": 3})}, arrays({"up": 9, "left": 9}, first=50)

        def run(**changes: object) -> object:
            options = {"class_names": NAMES, "protocol": "hard", "protocol_options": TINY, "repeats": 2}
            return evaluate_sets(sets, test, checkpoints=tmp_path / "kept", **options | changes)

        first = run()
        assert first.rows[0].checks == 3
        assert first.rows[0].constants["lr"] == 0.01
        assert "protocol hard, size=16, epochs=3, width=4: accuracy" in first.table()
        assert " of 3" in first.table()
        assert first.to_dict()["protocol_options"] == TINY
        assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".json"}
        monkeypatch.setattr(sets_module, "run_protocol", lambda *arguments, **options: pytest.fail("trained again"))
        assert run() == first
        with pytest.raises(pytest.fail.Exception):
            run(seed=1)

    def test_processes_share_the_trainings_of_a_folder(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, test = {"a": arrays({"up": 3, "left": 3})}, arrays({"up": 9, "left": 9}, first=50)
        options = {"class_names": NAMES, "protocol": "hard", "protocol_options": TINY, "repeats": 4}
        alone, made, whole = evaluate_sets(sets, test, **options), Counter(), sets_module.run_protocol

        def training(*arguments, repeat, **more):
            made[repeat] += 1
            time.sleep(0.1)
            return whole(*arguments, repeat=repeat, **more)

        monkeypatch.setattr(sets_module, "run_protocol", training)
        with ThreadPoolExecutor(3) as pool:  # each is a worker of its own
            runs = [pool.submit(evaluate_sets, sets, test, checkpoints=tmp_path, **options) for _ in range(3)]
        assert [run.result() for run in runs] == [alone] * 3
        assert made == dict.fromkeys(range(4), 1)
        assert {path.suffix for path in tmp_path.iterdir()} == {".json"}

    def test_small_is_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its result has neither constants nor options in it, as before there were other protocols."""
        monkeypatch.setitem(run_module.PROTOCOLS, "small", Small(width=4, few_steps=12))
        result = evaluate_sets({"a": arrays({"up": 3, "left": 3})}, arrays({"up": 9, "left": 9}), class_names=NAMES,
                               repeats=1, protocol_options={"few_steps": 10})  # fmt: skip
        assert result.to_dict()["protocol_options"] == {"few_steps": 10}
        plain = evaluate_sets({"a": arrays({"up": 3, "left": 3})}, arrays({"up": 9, "left": 9}), class_names=NAMES,
                              repeats=1).to_dict()  # fmt: skip
        assert list(plain) == ["protocol", "seed", "repeats", "test_images", "class_names", "rows", "recognised",
                               "recognised_per_class"]  # fmt: skip
        assert "checks" not in plain["rows"][0]

    def test_each_network_has_its_own_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes = {}

        def run(images: np.ndarray, labels: object, test: np.ndarray, *rest: object, **options: object) -> object:
            shapes[options["network"]] = images.shape[2], test.shape[2]
            return training.Outcome(50.0, 60.0)

        monkeypatch.setattr(sets_module, "run_protocol", run)
        train = source({"up": 2, "left": 2})
        result = evaluate_source(train, train, protocol="rded", networks=["resnet18", "convnet5"], repeats=1,
                                 teacher=Teacher())  # fmt: skip
        assert shapes == {"resnet18": (16, 256), "convnet5": (16, 144)}
        assert [row.network for row in result.rows] == ["resnet18", "convnet5"]
        evaluate_source(train, train, protocol="hard", networks=["resnet18"], repeats=1)
        assert shapes["resnet18"] == (224, 224)

    def test_many_test_images_are_decoded_for_each_test(self, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"protocol": "hard", "protocol_options": TINY, "repeats": 1}
        train, test = source({"up": 3, "left": 3}), source({"left": 40, "none": 2, "up": 40}, first=100)
        held = evaluate_source(train, test, **options)
        monkeypatch.setattr(source_module, "STREAMED", 0)
        assert evaluate_source(train, test, **options) == held

    def test_blank_images_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        images = np.zeros((2, 3, 4, 4), np.uint8)
        train = source({"up": 1, "left": 1}, name="set")
        with pytest.raises(SourceError, match=r"set: every image has a single colour \(0, …\)"):
            source_module.check_not_blank(train, images)
        images[0, 0, 0, 0] = 1
        source_module.check_not_blank(train, images)
        assert "set: 1 of 2 images have a single colour: '1'" in caplog.text

    def test_blank_and_equal_real_images_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        train, options = source({"up": 3, "left": 3}), {"repeats": 1, "protocol_options": {"few_steps": 2, "checks": 1}}
        blank = replace(train, name="blank", load=lambda index: Image.new("L", (16, 16), 40 * index))
        with pytest.raises(SourceError, match="blank: every image has a single colour"):
            evaluate_source(train, train, real=blank, **options)
        same = replace(train, name="same", load=lambda index: train.load(0))
        evaluate_source(same, train, **options)
        assert "same: 5 of 6 images are copies of others of the set" in caplog.text

    def test_a_teacher_is_measured_at_the_size_of_the_protocol(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """RDED takes deep ConvNets at 128 pixels and other networks at 224, but images of 64 pixels as they are."""
        seen = []
        monkeypatch.setattr(labelling, "measure_teacher", lambda *_, size, **__: (seen.append(size), 1 / 0))
        test = np.zeros((2, 3, 72, 72), np.uint8), np.array([0, 1])
        for side, network in ((64, "convnet5"), (64, "resnet18"), (100, "convnet5"), (100, "resnet18")):
            sets = {"drawn": lambda _, side=side: (np.zeros((2, 3, side, side), np.uint8), np.array([0, 1]))}
            with pytest.raises(ZeroDivisionError):
                evaluate_sets(sets, test, class_names=NAMES, protocol="rded", networks=[network], teacher=Teacher())
        assert seen == [64, 64, 128, 224]


def test_rded_says_how_it_differs() -> None:
    assert "first 50 of a class" in RDED.differs
