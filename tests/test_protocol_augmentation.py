"""Published protocols: their augmentation, against the references' one image at a time."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from protocol_trainings import recipe
from torchvision.transforms import functional as vision

from dap import _core, rng
from dap.evaluation.augment import Draws, _by_torch, _colours, apply, centre, cutmix, draw


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
