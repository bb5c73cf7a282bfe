"""Average pooling equals torch's own, values and gradients, in every layout and dtype."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional

from dap.nets.average_pool import AveragePool

SHAPES = [(0, 4, 8, 8), (1, 1, 4, 4), (3, 5, 7, 9), (4, 32, 28, 28)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("side", [2, 4])
def test_equals_torchs_own(side, shape, dtype, layout):
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=draw).to(dtype).contiguous(memory_format=layout)
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    found, expected = AveragePool(side)(ours), functional.avg_pool2d(theirs, side)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    given = torch.randn(expected.shape, generator=draw).to(dtype)
    found.backward(given)
    expected.backward(given)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-7)


def test_a_single_image():
    image = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(AveragePool(2)(image), functional.avg_pool2d(image, 2))


def test_under_autocast_it_stays_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        assert AveragePool(2)(torch.ones(1, 1, 4, 4)).dtype == torch.float32


def test_gradients_of_single_images():
    images = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))

    def energy(image):
        return AveragePool(2)(image[None]).square().sum()

    expected = torch.stack([grad(energy)(image) for image in images])
    torch.testing.assert_close(vmap(grad(energy))(images), expected)
    torch.testing.assert_close(expected[0, 0, 0, 0], images[0, 0, :2, :2].mean() / 2)


def test_a_convolution_is_taken_where_it_is_quicker(monkeypatch):
    convolutions, images = [], torch.ones(2, 3, 4, 4)
    plain = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *args, **keys: convolutions.append(1) or plain(*args, **keys))
    AveragePool(2)(images.contiguous(memory_format=torch.channels_last))
    AveragePool(2)(images.bfloat16())
    assert not convolutions
    AveragePool(2)(images)
    assert convolutions
