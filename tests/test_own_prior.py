"""A prior that a user writes: what it needs, and that it checks itself when it is made."""

from __future__ import annotations

import pytest
import tiny
import torch

from dap.errors import OptionError
from dap.priors import Prediction, Prior, load_prior

LABELS = torch.tensor([3, 0, 9])
T = torch.tensor(400)


class Own(tiny.StubPrior):
    """The least that a user writes: no optional part."""

    latent_shape, image_shape = (1, 2, 2), (1, 2, 2)

    def decode_pixels(self, latents):
        return latents

    def denoise(self, sample, timestep, labels, *, guidance_scale=1.0, taps=(), through=False, condition=None):
        assert not torch.is_grad_enabled()
        return Prediction(sample, None, {number: sample.flatten(2) + number for number in taps})


def test_a_prior_of_a_user_needs_no_optional_part():
    prior = Own()
    assert load_prior(prior) is prior and prior.for_classes(["cat"]) is prior
    assert not prior.has_null and prior.recommended == {} and prior.condition_shape is None
    assert prior.decode(torch.tensor([[[[-1.0, 0.0], [1.0, 9.0]]]])).tolist() == [[[[0, 128], [255, 255]]]]
    x = torch.randn(1, 1, 2, 2)
    assert torch.equal(prior.features(x, T, LABELS[:1], 3), x.flatten(2) + 3)
    with pytest.raises(OptionError, match="stub: has no condition for a label"):
        prior.condition(LABELS)


class Quacks:
    """Has a denoiser, and is no prior."""

    denoise = Own.denoise


def test_a_prior_is_a_subclass_of_prior():
    with pytest.raises(OptionError, match=r"a pipeline or a dap\.priors\.Prior, got Quacks"):
        load_prior(Quacks())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"block_names": ["block 1"]}, r"prior Bad: expected block_names to be a tuple, got \['block 1'\]"),
        ({"latent_shape": (4, 8)}, r"prior Bad: expected 3 ints for latent_shape, got \(4, 8\)"),
        ({"image_shape": (1, 8.0, 8)}, r"prior Bad: expected 3 ints for image_shape"),
        ({"condition_shape": (1, 2, 3)}, r"prior Bad: expected 2 ints for condition_shape"),
        ({"device": "cpu"}, "prior Bad: expected device to be a device, got 'cpu'"),
        ({"dtype": "float32"}, "prior Bad: expected dtype to be a dtype, got 'float32'"),
        ({"slot_bytes": None}, "prior Bad: expected slot_bytes to be a int, got None"),
        ({"has_null": None}, "prior Bad: expected has_null to be a bool, got None"),
    ],
)
def test_a_prior_with_a_wrong_part_is_refused_when_it_is_made(parts, message):
    with pytest.raises(OptionError, match=message):
        type("Bad", (Own,), parts)()


METHODS = ("denoise", "encode", "decode_pixels", "labels_of", "describe", "scheduler")
ATTRIBUTES = ("name", "latent_shape", "image_shape", "block_names", "device", "dtype")


@pytest.mark.parametrize("part", [*METHODS, *ATTRIBUTES])
def test_a_prior_without_a_part_is_refused_when_it_is_made(part):
    parts = {name: value for kind in (tiny.StubPrior, Own) for name, value in vars(kind).items() if name[:1] != "_"}
    type("Good", (Prior,), parts)()
    del parts[part]
    with pytest.raises(OptionError, match=f"prior Bad: lacks {part}.*; see dap.priors.Prior"):
        type("Bad", (Prior,), parts)()
