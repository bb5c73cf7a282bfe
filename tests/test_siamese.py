"""Differentiable Siamese augmentation: each change by its formula, pixel by pixel, or as torchvision computes it."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dap.methods.common.siamese import STRATEGIES, normalised, siamese_augmentation


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cut_out(images, row, column):
    """Zeros in a square of half the side around a pixel, whose part outside the image falls on its edge."""
    images, side = images.clone(), images.shape[-1]
    half = int(side * 0.5 + 0.5)
    for i in range(half):
        for j in range(half):
            y, x = (min(max(centre + k - half // 2, 0), side - 1) for centre, k in ((row, i), (column, j)))
            images[..., y, x] = 0
    return images


def test_colors_by_hand():
    images, (b, s, c) = drawn(2, 3, 4, 4), (0.9, 0.3, 0.8)
    expected = images.clone()
    for image in expected:
        image += b - 0.5
        for y in range(4):
            for x in range(4):
                mean = sum(image[k, y, x].item() for k in range(3)) / 3
                for k in range(3):
                    image[k, y, x] = (image[k, y, x] - mean) * 2 * s + mean
        mean = image.mean().item()
        image.copy_((image - mean) * (c + 0.5) + mean)
    torch.testing.assert_close(STRATEGIES["color"](images, [b, s, c]), expected)
    grey = images[:, :1]
    only = grey + b - 0.5  # there is no saturation of grey
    mean = only.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(STRATEGIES["color"](grey, [b, s, c]), (only - mean) * (c + 0.5) + mean)


@pytest.mark.parametrize("draws", [(0.0, 0.999), (0.5, 0.2), (0.999, 0.0)])
def test_shifts_and_squares_by_hand(draws):
    images = drawn(2, 1, 16, 16)
    down, right = (int(draw * 5) - 2 for draw in draws)  # an eighth of 16
    expected = torch.zeros_like(images)
    for y in range(16):
        for x in range(16):
            if 0 <= y + down < 16 and 0 <= x + right < 16:
                expected[..., y, x] = images[..., y + down, x + right]
    assert torch.equal(STRATEGIES["crop"](images, [*draws, 0.0]), expected)
    row, column = (int(draw * 17) for draw in draws)  # up to one behind the last, as the side of the square is even
    ours = STRATEGIES["cutout"](images, [*draws, 0.0])
    assert torch.equal(ours, cut_out(images, row, column))


def test_flips_scales_and_rotations_are_those_of_torchvision():
    images = drawn(2, 3, 16, 16)
    assert torch.equal(STRATEGIES["flip"](images, [0.4, 0, 0]), images.flip(3))
    assert STRATEGIES["flip"](images, [0.6, 0, 0]) is images
    bilinear = {"translate": [0, 0], "shear": [0.0], "interpolation": InterpolationMode.BILINEAR}
    for draw, angle in ((0.0, -15.0), (0.9, 12.0)):
        theirs = tv.affine(images, angle=-angle, scale=1.0, **bilinear)
        torch.testing.assert_close(STRATEGIES["rotate"](images, [draw, 0, 0]), theirs)
    # the grid is 1 / 1.2 to 1.2 times as large, so that the image is that much smaller
    for draw, factor in ((0.0, 1 / 1.2), (0.999999, 1.2)):
        theirs = tv.affine(images, angle=0.0, scale=1 / factor, **bilinear)
        torch.testing.assert_close(STRATEGIES["scale"](images, [draw, draw, 0]), theirs, rtol=1e-4, atol=1e-4)
    tall = STRATEGIES["scale"](images, [0.5, 0.999999, 0])
    assert (tall[..., 0, :] == 0).all() and not (tall[..., :, 7] == 0).all()


def test_batches_of_one_seed_are_changed_alike_and_every_change_comes():
    images = drawn(3, 1, 16, 16)
    kinds = set()
    for seed in range(60):
        whole, one = (siamese_augmentation(part, torch.Generator().manual_seed(seed)) for part in (images, images[1:2]))
        torch.testing.assert_close(whole[1:2], one)
        kinds.add(int(torch.randint(6, (1,), generator=torch.Generator().manual_seed(seed))))
    assert kinds == set(range(6)) and len(STRATEGIES) == 6


def test_images_are_clamped_and_in_units_of_imagenet():
    images = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64).view(5, 1, 1, 1).expand(5, 3, 1, 1)
    red = [(value - 0.485) / 0.229 for value in (0, 0, 0.5, 1, 1)]
    assert normalised(images)[:, 0, 0, 0].tolist() == pytest.approx(red)
    grey = [(value - 1.347 / 3) / (0.678 / 3) for value in (0, 0, 0.5, 1, 1)]
    assert normalised(images[:, :1])[:, 0, 0, 0].tolist() == pytest.approx(grey)
