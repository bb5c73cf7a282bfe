"""Features of noised real images, against a float64 oracle."""

from __future__ import annotations

import oracles
import pytest
import torch

from dap import rng
from dap.errors import OptionError
from dap.features import Tap, encode_images, noised_features, real_features
from dap.priors import batches
from dap.priors.dit import DiTPrior

# diffusers meets numpy 2 here
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IDS = ("a/1.png", "a/2.png", "b.png", "17", "18")


def latents():
    return torch.randn((len(IDS), 4, 8, 8), generator=torch.Generator().manual_seed(0))


def features(prior, z, ids, **options):
    defaults = {"label": 3, "tap": Tap(2), "scheduler": prior.scheduler("ddpm", 10), "timestep": 500, "seed": 1}
    return noised_features(prior, z, ids, **{**defaults, **options})


def oracle(pipeline, z, noise_names, *, timestep, label, block, seed, pooling):
    """φ(√ᾱ z + √(1 − ᾱ) ε, t), image by image."""
    transformer, rows = oracles.double(pipeline.transformer), []
    cumulative = float(pipeline.scheduler.alphas_cumprod[timestep])
    for latent, name in zip(z.double(), noise_names, strict=True):
        noise = torch.randn((4, 8, 8), generator=rng.generator(seed, "feature", name, timestep)).double()
        noised = cumulative**0.5 * latent + (1 - cumulative) ** 0.5 * noise
        with torch.no_grad():
            tokens = oracles.tokens(transformer, noised[None], timestep, torch.tensor([label]), block)[0]
        rows.append(sum(tokens) / len(tokens) if pooling == "mean" else torch.cat(list(tokens)))
    return torch.stack(rows)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("pooling", "size"), [("mean", 16), ("flat", 256)])
@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++"])
def test_noised_features_equal_the_oracle(tiny_pipeline, scheduler, pooling, size, shared):
    prior = DiTPrior(tiny_pipeline)
    schedule = prior.scheduler(scheduler, 10)
    t = int(schedule.timesteps[4])
    ours = features(
        prior, latents(), IDS, tap=Tap(2, pooling), scheduler=schedule, timestep=t, shared_noise=shared
    )  # fmt: skip
    names = ["shared"] * len(IDS) if shared else IDS
    expected = oracle(tiny_pipeline, latents(), names, timestep=t, label=3, block=2, seed=1, pooling=pooling)
    assert ours.shape == (5, size) and ours.dtype == torch.float32 and not ours.requires_grad
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)


def test_noise_depends_on_seed_image_and_step_only(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    whole = features(prior, latents(), IDS)
    for order in ([2], [4, 0, 3]):
        part = features(prior, latents()[order], [IDS[number] for number in order])
        torch.testing.assert_close(part, whole[order], rtol=0, atol=1e-5)
    same = latents()[:1].expand(3, -1, -1, -1)
    own = features(prior, same, IDS[:3])
    assert (own[0] - own[1]).abs().max() > 1e-2 and (own[0] - own[2]).abs().max() > 1e-2
    shared = features(prior, same, IDS[:3], shared_noise=True)
    torch.testing.assert_close(shared[0].expand_as(shared), shared, rtol=0, atol=1e-5)
    assert (features(prior, latents(), IDS, seed=2) - whole).abs().max() > 1e-2
    assert (features(prior, latents(), IDS, label=4) - whole).abs().max() > 1e-2


def test_features_do_not_depend_on_the_blocks_in_which_they_are_computed(tiny_pipeline, monkeypatch):
    prior = DiTPrior(tiny_pipeline)
    images = torch.randint(0, 256, (5, 1, 32, 32), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    whole, encoded = features(prior, latents(), IDS), encode_images(prior, images)
    monkeypatch.setattr(batches, "BUDGET", 2 * prior.image_bytes.features)
    assert prior.batches.features == 2
    torch.testing.assert_close(features(prior, latents(), IDS), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(encode_images(prior, images), encoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoded, prior.encode(images), rtol=0, atol=1e-5)


def test_real_features_are_those_of_step_100(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    images = torch.randint(0, 256, (3, 1, 32, 32), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    ours = real_features(prior, images, iter(IDS[:3]), label=3, tap=Tap(1))
    z = prior.encode(images)
    expected = oracle(tiny_pipeline, z, IDS[:3], timestep=100, label=3, block=1, seed=0, pooling="mean")
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)


def test_a_block_that_is_not_there(tiny_pipeline):
    with pytest.raises(OptionError, match="block: expected 1 to 3, got 4"):
        features(DiTPrior(tiny_pipeline), latents(), IDS, tap=Tap(4))
