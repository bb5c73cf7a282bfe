"""d4m: image-to-image from prototypes, against diffusers' own pipeline and against a float64 chain."""

from __future__ import annotations

import sys

import numpy as np
import oracles
import pytest
import tiny
import torch
from diffusers import PNDMScheduler, StableDiffusionImg2ImgPipeline
from test_schedulers import KINDS, final_latents

import dap
from dap import rng
from dap.errors import OptionError, RunMismatchError
from dap.methods import D4M, get_method
from dap.methods.common.modes import Modes
from dap.methods.d4m import streamed_k_means
from dap.priors import load_prior
from dap.priors.dit import DiTPrior
from dap.priors.schedulers import public
from dap.priors.stable_diffusion import StableDiffusionPrior
from dap.sampling import SamplingSettings, sample, steps_taken

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ["cat", "oak tree", "lorry"]


def slots(count=3):
    return [rng.generator(1, "slot", number) for number in range(count)]


def prototypes(count=3):
    return torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("strength", [0.7, 1.0, 0.3])
@pytest.mark.parametrize("name", KINDS)
def test_it_is_diffusers_image_to_image(name, strength):
    pipeline = tiny.stable_diffusion()
    prior = StableDiffusionPrior(pipeline, template="{}", negative_prompt="cartoon, anime, painting").for_classes(NAMES)
    labels = torch.tensor(list(prior.labels_of(NAMES).values()))
    settings = SamplingSettings(num_inference_steps=7, guidance_scale=8.0, scheduler=name)
    ours = sample(prior, labels, slots(), settings=settings, init=prototypes(), strength=strength)
    parts = {key: part for key, part in pipeline.components.items() if key != "image_encoder"}
    theirs = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    theirs.scheduler = KINDS[name].from_config(public(pipeline.scheduler.config))
    theirs.set_progress_bar_config(disable=True)
    expected = final_latents(
        theirs, pipeline.vae,
        lambda own: own(
            NAMES, image=prototypes(), strength=strength, negative_prompt=["cartoon, anime, painting"] * 3,
            num_inference_steps=7, guidance_scale=8.0, generator=slots(), output_type="pt",
        ),
    )  # fmt: skip
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize(("strength", "skipped"), [(0.7, 2), (1.0, 0), (0.01, 5)])
def test_the_chain_from_the_noised_prototype(tiny_pipeline, strength, skipped):
    """x_t = α_t z + σ_t ε at step n − ⌊s n⌋ of n = 6, then DDIM, in float64; one step at least."""
    settings = SamplingSettings(num_inference_steps=6, guidance_scale=1.0, scheduler="ddim")
    labels = torch.tensor([3, 0, 9])
    ours = sample(DiTPrior(tiny_pipeline), labels, slots(), settings=settings, init=prototypes(), strength=strength)
    schedule = DiTPrior(tiny_pipeline).scheduler("ddim", 6)
    steps = list(zip(schedule.timesteps, oracles.cumulative_products(schedule), strict=True))[skipped:]
    noise = torch.stack([torch.randn((4, 8, 8), generator=each) for each in slots()]).double()
    now = steps[0][1][0]
    x = now**0.5 * prototypes().double() + (1 - now) ** 0.5 * noise
    transformer = oracles.double(tiny_pipeline.transformer)
    with torch.no_grad():
        for t, (now, after) in steps:
            eps, _ = oracles.noise_estimate(transformer, x, t, labels, 1.0)
            x = oracles.ddim_step(x, eps, now, after)
    torch.testing.assert_close(ours.double(), x, rtol=0, atol=1e-4)


def test_a_run_starts_at_the_prototypes_of_its_classes(tmp_path, monkeypatch):
    prior, seen = load_prior("fashion-dit"), []
    make = D4M.make

    def spy(self, context, unit, artefact):
        seen.append(artefact)
        return make(self, context, unit, artefact)

    monkeypatch.setattr(D4M, "make", spy)
    settings = {"prior": prior, "ipc": 3, "classes": ["Bag", "Dress"], "num_inference_steps": 10, "progress": False}
    made = {
        strength: dap.distill("fashion-mini", method=D4M(strength=strength), out=tmp_path / str(strength), **settings)
        for strength in (0.1, 0.7)
    }
    modes: Modes = seen[0]
    assert made[0.7].manifest["record"]["sizes"].keys() == {"Bag", "Dress"}
    assert all(sizes == sorted(sizes, reverse=True) and sum(sizes) == 1000 for sizes in modes.sizes.values())
    decoded = torch.cat([prior.decode(modes.latents[name]) for name in ("Dress", "Bag")]).float()
    near, far = ((made[strength].to_torch()[0].float() - decoded).abs().mean() for strength in (0.1, 0.7))
    assert near < 12 < far  # a tenth of the way back to noise leaves a prototype nearly where it was
    again = dap.distill("fashion-mini", method="d4m", out=tmp_path / "0.7", **settings)
    assert torch.equal(again.to_torch()[0], made[0.7].to_torch()[0])
    with pytest.raises(OptionError, match="has 1000 images, fewer than"):
        dap.distill("fashion-mini", method="d4m", out=tmp_path / "many", **settings | {"ipc": 1001})


def test_streamed_prototypes_are_running_means_over_batches():
    """In batches of k the centres are the rows of the first, then the means of all rows that came nearest to them."""
    pytest.importorskip("sklearn")
    rows = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
    found = streamed_k_means(rows, 2, seed=3, expand=1)
    order = np.random.default_rng(3).permutation(23)[:22]  # eleven batches; the last row is in none
    centers, counts = rows[order[:2]].astype(np.float64), [1, 1]
    for start in range(2, 22, 2):
        batch = rows[order[start : start + 2]]
        nearest = [int(((centers - row) ** 2).sum(1).argmin()) for row in batch]
        for row, cluster in zip(batch, nearest, strict=True):
            counts[cluster] += 1
            centers[cluster] += (row - centers[cluster]) / counts[cluster]
    by_place = [each[np.lexsort(each.T)] for each in (found.centers, centers)]
    np.testing.assert_allclose(*by_place, rtol=0, atol=1e-5)
    assert (found.labels == ((rows[:, None] - found.centers) ** 2).sum(2).argmin(1)).all()
    assert np.bincount(found.labels)[0] >= np.bincount(found.labels)[1] > 0, "the largest is the first"


@pytest.mark.parametrize(("images", "left_out"), [(23, 3), (20, 0), (3, 0)])
def test_a_batch_that_is_not_complete_is_left_out_unless_it_is_the_only_one(images, left_out):
    pytest.importorskip("sklearn")
    rows = np.random.default_rng(0).normal(size=(images, 3)).astype(np.float32)
    order, found = np.random.default_rng(3).permutation(images), streamed_k_means(rows, 2, seed=3, expand=2).centers
    for place, row in enumerate(order):
        moved = rows.copy()
        moved[row] += 5
        same = np.array_equal(streamed_k_means(moved, 2, seed=3, expand=2).centers, found)
        assert same == (place >= images - left_out)


def test_a_run_from_streamed_prototypes(tmp_path):
    pytest.importorskip("sklearn")
    settings = {
        "prior": "fashion-dit", "ipc": 3, "classes": ["Bag"], "num_inference_steps": 2, "batch_size": 3,
        "progress": False,
    }  # fmt: skip
    streamed = dap.distill("fashion-mini", method="d4m:streamed", out=tmp_path / "streamed", **settings)
    sizes = streamed.manifest["record"]["sizes"]["Bag"]
    assert sum(sizes) == 1000 and sizes == sorted(sizes, reverse=True)
    plain = dap.distill("fashion-mini", method="d4m", out=tmp_path / "plain", **settings)
    assert plain.manifest["record"]["sizes"]["Bag"] != sizes
    with pytest.raises(RunMismatchError, match=r"options\.method\.stream: there 1, now 0"):
        dap.distill("fashion-mini", method="d4m", out=tmp_path / "streamed", **settings)


def test_scikit_learn_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(OptionError, match=r"stream: needs scikit-learn.*dap-distill\[coda\]"):
        D4M(stream=1).prepare(None)


def test_the_released_sampler_calls_the_network_36_times():
    """50 steps at a strength of 0.7: the multistep PNDM repeats its first step; other samplers take 35."""
    own = PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_end=0.004)
    prior = load_prior(tiny.stable_diffusion(scheduler=own))
    calls = [steps_taken(prior, SamplingSettings(50, scheduler=name), 0.7) for name in (None, "ddim", "ddpm")]
    assert calls == [36, 35, 35] and get_method("d4m").strength == 0.7


def test_options():
    assert get_method("d4m:paper") == D4M(strength=0.7) and get_method("d4m:streamed") == D4M(stream=1)
    with pytest.raises(OptionError, match="stream: expected a whole number of at least 0, got -1"):
        D4M(stream=-1)
    for strength in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(OptionError, match="strength: expected a number above 0 and of at most 1"):
            D4M(strength=strength)
