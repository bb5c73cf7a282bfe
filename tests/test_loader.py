"""The loader: each augmentation is torchvision's with the same parameters; seeds, epochs, devices of batches."""

from __future__ import annotations

import doctest
import importlib
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

import dap
from dap import _core
from dap.errors import OptionError
from dap.loader import Loader
from dap.nets import AUGMENTATIONS, Augmentation, get_augmentation
from dap.nets.augmentation import _by_torch
from dap.rng import generator

JITTER = {"brightness": 0.5, "contrast": 0.6, "saturation": 0.7}


def images_of(count: int, height: int = 24, width: int = 24, channels: int = 3) -> torch.Tensor:
    smooth = torch.rand(count, channels, 5, 5, generator=generator("images"))
    return (torch.nn.functional.interpolate(smooth, (height, width), mode="bicubic").clamp(0, 1) * 255).byte()


def loader_of(count: int = 23, **options: object) -> Loader:
    settings = {"batch_size": 5, "device": "cpu", **options}
    return Loader(images_of(count), torch.arange(count), **settings)


def batches(loader: Loader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(loader)


def same(left: list[tuple[torch.Tensor, torch.Tensor]], right: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


def as_torchvision(
    image: torch.Tensor, box: list[int], flip: bool, factors: list[float] | None, size: list[int] | None = None
) -> torch.Tensor:
    """One image through torchvision, from the same draws."""
    size = list(image.shape[-2:]) if size is None else size
    top, left, height, width = box
    image = reference.resized_crop(image, top, left, height, width, size) if [height, width] != size else (
        reference.crop(image, top, left, height, width)
    )  # fmt: skip
    image = reference.to_dtype(reference.horizontal_flip(image) if flip else image, torch.float32, scale=True)
    if factors is not None:
        image = reference.adjust_brightness(image, factors[0])
        image = reference.adjust_contrast(image, factors[1])
        image = reference.adjust_saturation(image, factors[2])
    return image


class TestAugmentation:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(24, 24), (17, 31)])
    @pytest.mark.parametrize(
        "augmentation",
        [
            *AUGMENTATIONS.values(), Augmentation(shift=0.4), Augmentation(scale=(0.05, 1.0)),
            Augmentation(shift=0.2, **JITTER), Augmentation(scale=(0.1, 0.9), **JITTER), Augmentation(brightness=2.0),
        ],
        ids=str,
    )  # fmt: skip
    def test_is_torchvisions_with_the_same_parameters(
        self, augmentation: Augmentation, size: tuple[int, int], channels: int
    ) -> None:
        images = images_of(12, *size, channels)
        draws = augmentation.draw(12, *size, generator("draws"))
        jitters = bool(augmentation.brightness or augmentation.contrast or augmentation.saturation)
        normal, unchanged = torch.tensor([[0.0, 1.0]] * channels), torch.full(images.shape, math.nan)
        by_rust = augmentation.apply(images, draws, unchanged.clone())
        by_torch = _by_torch(images, draws, draws.factors if jitters else None, normal, unchanged)  # other devices
        places = zip(images, *(drawn.tolist() for drawn in draws), by_rust, by_torch, strict=True)
        for image, box, flip, factors, rust, other in places:
            expected = as_torchvision(image, box, flip, factors if jitters else None)
            torch.testing.assert_close(rust, expected, rtol=0, atol=2e-6)
            torch.testing.assert_close(other, expected, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_rust_form_at_its_edges(self, channels: int) -> None:
        """Shifts out of the image, odd sides, the mean of each run of pixels, any number of threads; no images."""
        images, rows = images_of(7, 51, 83, channels), np.array([6, 0, 3, 3, 1])
        corners = np.array([[0, 0], [51, 0], [0, -83], [-50, 82], [60, -90]])
        flips, factors = np.array([True, False, True, False, True]), np.full((5, 3), 1.3, np.float32)
        normal = np.array([[0.4, 0.2], [0.5, 0.25], [0.6, 0.3]], np.float32)[:channels]
        found = [np.empty((5, channels, 51, 83), np.float32) for _ in range(3)]
        for threads, out in zip((1, 2, None), found, strict=True):
            _core.augment(images.numpy(), rows, corners, flips, factors, normal, out, threads)
        assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
        for image, (top, left), flip, result in zip(
            images[rows], corners.tolist(), flips.tolist(), found[0], strict=True
        ):
            padded = torch.nn.functional.pad(image, (100, 100, 100, 100))[:, 100 + top :, 100 + left :]
            expected = as_torchvision(padded, [0, 0, 51, 83], flip, factors[0].tolist(), size=[51, 83])
            expected = (expected.numpy() - normal[:, :1, None]) / normal[:, 1:, None]
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
        none = np.empty((0, channels, 51, 83), np.float32)
        _core.augment(none.astype(np.uint8), rows[:0], corners[:0], flips[:0], factors[:0], normal, none)
        with pytest.raises(ValueError, match="factors"):
            _core.augment(images.numpy(), rows, corners, flips, factors[:4], normal, found[0])
        with pytest.raises(ValueError, match="corners"):
            _core.augment(images.numpy(), rows, np.asfortranarray(corners), flips, factors, normal, found[0])
        with pytest.raises(ValueError, match="out"):
            _core.augment(images.numpy(), rows, corners, flips, factors, normal, found[0][:, :, ::-1])
        for wrong in (-1, 7):
            with pytest.raises(ValueError, match=f"{wrong}"):
                _core.augment(images.numpy(), np.full(5, wrong), corners, flips, factors, normal, found[0])

    def test_shifts_are_uniform_up_to_the_largest(self) -> None:
        boxes, flips, _ = Augmentation(shift=0.125).draw(4000, 16, 32, generator("shifts"))
        assert boxes[:, 0].unique().tolist() == [-2, -1, 0, 1, 2]
        assert boxes[:, 1].unique().tolist() == list(range(-4, 5))
        assert (boxes[:, 2:] == torch.tensor([16, 32])).all()
        assert abs(np.bincount(boxes[:, 0].numpy() + 2) / 4000 - 0.2).max() < 0.03
        assert abs(flips.double().mean() - 0.5) < 0.03

    def test_resized_boxes_have_the_area_and_the_ratio(self) -> None:
        boxes = Augmentation(scale=(0.2, 0.7)).draw(4000, 200, 200, generator("boxes")).boxes.double()
        top, left, height, width = boxes.unbind(1)
        assert (top >= 0).all() and (left >= 0).all() and (top + height <= 200).all() and (left + width <= 200).all()
        area, ratio = height * width / 200**2, width / height
        assert 0.195 < area.min() < 0.21 and 0.68 < area.max() < 0.705 and abs(area.mean() - 0.45) < 0.02
        assert 0.74 < ratio.min() < 0.76 and 1.31 < ratio.max() < 1.35 and abs(ratio.log().mean()) < 0.02
        assert (top == 200 - height).any() and (top == 0).any()

    def test_a_box_that_never_fits_becomes_the_middle(self) -> None:
        boxes = Augmentation(scale=(1.0, 1.0)).draw(5, 10, 100, generator("boxes")).boxes
        assert boxes.tolist() == [[0, 43, 10, 13]] * 5  # as torchvision: full height, the widest ratio

    def test_factors_reach_both_ends_and_never_fall_below_zero(self) -> None:
        factors = Augmentation(brightness=0.4, contrast=2.0).draw(4000, 8, 8, generator("factors")).factors
        low, high = factors.amin(0), factors.amax(0)
        assert 0.6 <= low[0] < 0.61 and 1.39 < high[0] <= 1.4
        assert 0 <= low[1] < 0.01 and 2.98 < high[1] <= 3
        assert low[2] == high[2] == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"shift": 1.0}, "shift: expected a share"),
            ({"scale": (0.0, 1.0)}, "scale: expected shares"),
            ({"scale": (0.5, 0.4)}, "scale: expected shares"),
            ({"shift": 0.1, "scale": (0.5, 1.0)}, "got both"),
            ({"contrast": -0.1}, "contrast: expected a number of at least 0"),
        ],
    )
    def test_bad_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            Augmentation(**options)

    def test_unknown_name(self) -> None:
        with pytest.raises(OptionError, match="did you mean 'standard'"):
            get_augmentation("standart")


class TestLoader:
    def test_without_augmentation_every_image_comes_once(self) -> None:
        loader = loader_of()
        images = images_of(23).float() / 255
        found = batches(loader)
        assert [len(batch) for batch, _ in found] == [5, 5, 5, 5, 3] and len(loader) == 5
        labels = torch.cat([labels for _, labels in found])
        assert sorted(labels.tolist()) == list(range(23)) and labels.tolist() != list(range(23))
        torch.testing.assert_close(torch.cat([batch for batch, _ in found]), images[labels], rtol=0, atol=1e-7)

    def test_order_and_last_batch(self) -> None:
        loader = loader_of(shuffle=False, drop_last=True)
        assert len(loader) == 4 == len(batches(loader))
        assert [labels.tolist() for _, labels in loader] == [list(range(i, i + 5)) for i in range(0, 20, 5)]
        assert len(loader_of(20, drop_last=True)) == len(loader_of(20)) == 4

    @pytest.mark.parametrize("augment", ["standard", lambda images, draws: images.flip(-1)])
    def test_an_epoch_depends_on_seed_and_number_alone(self, augment: object) -> None:
        first, again = loader_of(augment=augment), loader_of(augment=augment)
        epochs = [batches(first) for _ in range(3)]
        again.epoch = 2
        assert same(batches(again), epochs[2]) and again.epoch == 3
        again.epoch = 0
        next(iter(again))  # an epoch that is left early takes no draws from the next one
        assert same(batches(again), epochs[1])
        assert not same(epochs[0], epochs[1])
        assert not same(batches(loader_of(augment=augment, seed=1)), epochs[0])

    def test_global_seeds_are_neither_read_nor_moved(self) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        found = batches(loader_of(augment="standard"))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert same(batches(loader_of(augment="standard")), found)

    def test_batches_are_independent_of_the_set_and_of_each_other(self) -> None:
        loader = loader_of(shuffle=False)
        kept = batches(loader)
        for batch, _ in loader:
            batch.zero_()
        assert same(batches(loader), kept)

    def test_memory_is_used_again_once_nobody_holds_any_of_it(self) -> None:
        """Views, arrays and views of arrays keep a batch's memory; a last batch that is smaller takes what is there."""
        expected = [images.clone() for images, _ in loader_of(augment="crop")]
        assert all(map(torch.equal, [images for images, _ in loader_of(augment="crop")], expected))
        kept = [(images[1, :, 3:], images.numpy()[2, 0]) for images, _ in loader_of(augment="crop")]
        for (view, array), images in zip(kept, expected, strict=True):
            assert torch.equal(view, images[1, :, 3:])
            assert np.array_equal(array, images[2, 0])
        loader, places = loader_of(augment="crop"), []
        for _ in range(2):
            for number, (images, _) in enumerate(loader):
                places.append(images.data_ptr())
                assert loader.epoch == 2 or torch.equal(images, expected[number])
        assert len(set(places)) == 2  # a loop holds one batch while the next is made
        assert len(pickle.loads(pickle.dumps(loader))) == len(loader)

    @pytest.mark.parametrize("augment", [None, "standard", lambda images, draws: images, lambda x, draws: x / 255])
    def test_normalised_with_mean_and_std(self, augment: object) -> None:
        plain, normalised = (
            loader_of(augment=augment),
            loader_of(augment=augment, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        )
        for (images, _), (found, _) in zip(plain, normalised, strict=True):
            expected = reference.normalize(images, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            assert found.dtype == torch.float32

    def test_a_function_gets_uint8_and_a_generator(self) -> None:
        seen = []

        def augment(images: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
            seen.append((images.dtype, tuple(images.shape), torch.rand(1, generator=draws).item()))
            return images

        batches(loader_of(10, augment=augment))
        assert [entry[:2] for entry in seen] == [(torch.uint8, (5, 3, 24, 24))] * 2
        assert seen[0][2] != seen[1][2]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
            ({"augment": "flop"}, "unknown augmentation 'flop'; did you mean 'flip'"),
            ({"mean": [0.5] * 3}, "expected both, 3 numbers each"),
            ({"mean": [0.5], "std": [0.5]}, "expected both, 3 numbers each"),
            ({"mean": [0.5] * 3, "std": [0.5, 0.0, 0.5]}, "std above 0"),
            ({"device": "cuda:99"}, "torch sees"),
        ],
    )
    def test_bad_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            loader_of(**options)

    def test_bad_tensors(self) -> None:
        with pytest.raises(OptionError, match="expected uint8 images"):
            Loader(torch.zeros(2, 3, 4, 4), torch.zeros(2), batch_size=1)
        with pytest.raises(OptionError, match="one label for each of 2"):
            Loader(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3), batch_size=1)

    def test_a_device_that_is_too_small_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(torch.Tensor, "to", full)
        with pytest.raises(OptionError, match=r"device='cpu': the 23 images take 0\.0 GB, more than is free"):
            loader_of()

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_gpu_gives_the_same_batches(self) -> None:
        for (images, labels), (other, other_labels) in zip(
            loader_of(augment="standard"), loader_of(augment="standard", device="cuda"), strict=True
        ):
            torch.testing.assert_close(images, other.cpu(), rtol=0, atol=2 / 255)
            assert torch.equal(labels, other_labels.cpu())


def test_a_classifier_learns_from_it(tmp_path: Path) -> None:
    for name, left in (("left", True), ("right", False)):
        (tmp_path / name).mkdir()
        for number in range(8):
            pixels = np.full((16, 16, 3), 20 + number, np.uint8)
            pixels[:8] = 200 if left else 20
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    loader = dap.load(tmp_path).loader(4, augment="standard", device="cpu")
    weights = torch.zeros(3 * 16 * 16, 2, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=0.1)
    for _ in range(10):
        for images, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(images.flatten(1) @ weights, labels).backward()
            optimizer.step()
    images, labels = dap.load(tmp_path).to_torch()
    assert ((images.flatten(1) / 255 @ weights).argmax(1) == labels).all()


@pytest.mark.parametrize("name", ["dap.loader", "dap.nets.augmentation"])
def test_docstrings(name: str) -> None:
    report: list[str] = []
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test, out=report.append)
    assert not report, "".join(report)
