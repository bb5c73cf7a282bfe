"""Guidance inside a diffusers pipeline: parity with dap.distill's own steps, untouched bytes, errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tiny
import torch
from conftest import build_pipeline
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

import dap
from dap import rng
from dap.errors import OptionError
from dap.methods import Slot, Unit
from dap.priors import load_prior
from dap.run import Request, resolve
from dap.sampling import DeltaTerm, EnergyTerm, Place, SamplingSettings, sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ["cat", "oak tree", "cat"]
STEPS = 4
TERMS = {
    "kernel_distance": dap.terms.KernelDistance(scale=30.0, references=4, block=2),
    "kernel_distance, sample": dap.terms.KernelDistance(scale=0.1, references=4, block=2, at="sample", normalise=False),
    "set_energy": dap.terms.SetEnergy(references=4),
    "mode": dap.terms.Mode(),
    "influence": dap.terms.Influence(width=8, epochs=2, references=4),
    "manifold_mode": dap.terms.ManifoldMode(),
    "network_kernel": dap.terms.NetworkKernel(references=4, width=4),
    "sum": dap.terms.SetEnergy(references=4) + dap.terms.Mode(),
}
DIT_LABELS = {"cat": 281, "oak tree": 7}


def ddim(**options):
    return DDIMScheduler(beta_end=0.004, clip_sample=False, **options)


@pytest.fixture(scope="module")
def dit():
    pipe = build_pipeline(image_channels=3, out_channels=8, scheduler=ddim(), names=())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators():
    return [rng.generator(0, "slot", name, number) for name, number in zip(NAMES, (0, 0, 1), strict=True)]


def by_dap(prior, term, source, guidance_scale, **options):
    """Pixels (N, H, W, C) in [0, 1] of the same slots, sampled by dap."""
    job = resolve(Request(
        source=source, prior=prior, method=term, ipc={"cat": 2, "oak tree": 1}, num_inference_steps=STEPS,
        guidance_scale=guidance_scale, **options,
    ))  # fmt: skip
    context = job.context()
    order = [entry.name for entry in context.classes]
    unit = Unit(0, tuple(Slot(order.index(name), n) for name, n in zip(NAMES, (0, 0, 1), strict=True)))
    latents = job.recipe.make(context, unit, job.recipe.prepare(context))
    return (context.prior.decode_pixels(latents) / 2 + 0.5).clamp(0, 1).detach().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("term", TERMS)
def test_a_dit_is_guided_as_dap_guides_it(term, guidance_scale, dit, photographs):
    labels = [DIT_LABELS[name] for name in NAMES]
    call = {"generator": None, "num_inference_steps": STEPS, "guidance_scale": guidance_scale, "output_type": "np"}
    with dap.pipelines.guide(dit, TERMS[term], photographs, classes=NAMES):
        guided = dit(labels, **call | {"generator": generators()}).images
    own = by_dap(dit, TERMS[term], photographs, guidance_scale, label_map=DIT_LABELS)
    error = np.abs(guided - own).max()
    assert error <= 1e-4
    plain = dit(labels, **call | {"generator": generators()}).images
    assert np.abs(guided - plain).max() > max(10 * error, 1e-5)


def v_prediction():
    return tiny.stable_diffusion(v=True)


EULER, MULTISTEP = EulerDiscreteScheduler(beta_end=0.004), DPMSolverMultistepScheduler(beta_end=0.004)
TEXT = [  # each pipeline with each scheduler, and with each kind of term
    (tiny.stable_diffusion, ddim(), "kernel_distance"), (tiny.stable_diffusion, EULER, "kernel_distance, sample"),
    (tiny.stable_diffusion, MULTISTEP, "influence"), (v_prediction, ddim(), "influence"),
    (v_prediction, EULER, "set_energy"), (v_prediction, MULTISTEP, "kernel_distance"),
    (tiny.stable_diffusion_xl, ddim(), "kernel_distance, sample"), (tiny.stable_diffusion_xl, EULER, "influence"),
    (tiny.stable_diffusion_xl, MULTISTEP, "set_energy"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "scheduler", "term"), TEXT)
def test_stable_diffusion_is_guided_as_dap_guides_it(make, scheduler, term, photographs):
    pipe = make()
    predicts = pipe.scheduler.config.prediction_type
    pipe.scheduler = type(scheduler).from_config(dict(scheduler.config), prediction_type=predicts)
    call = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "np", "height": 32, "width": 32}
    prompts = [f"a photo of a {name}" for name in NAMES]
    with dap.pipelines.guide(pipe, TERMS[term], photographs, classes=NAMES):
        guided = pipe(prompts, generator=generators(), **call).images
    own = by_dap(pipe, TERMS[term], photographs, 5.0)
    error = np.abs(guided - own).max()
    assert error <= 1e-4
    assert np.abs(guided - pipe(prompts, generator=generators(), **call).images).max() > max(10 * error, 1e-5)


@dataclass(frozen=True, kw_only=True)
class Pull(DeltaTerm):
    at: Place = "x0"

    def delta(self, state):
        return 0.5 - state.x0


@dataclass(frozen=True, kw_only=True)
class Length(EnergyTerm):
    def energy(self, state):
        return state.sample.flatten(1).square().sum(1)


@dataclass(frozen=True, kw_only=True)
class Conditional(DeltaTerm):
    """Reads what CoDA's term reads."""

    def delta(self, state):
        return state.x0_conditional - 0.3


def test_the_estimate_before_classifier_free_guidance_is_that_of_dap(dit):
    draws = [rng.generator(0, "a"), rng.generator(0, "b")]
    with dap.pipelines.guide(dit, Conditional(scale=0.3)):
        guided = dit([3, 5], num_inference_steps=STEPS, generator=draws, output_type="np").images
    draws = [rng.generator(0, "a"), rng.generator(0, "b")]
    prior, settings = load_prior(dit), SamplingSettings(num_inference_steps=STEPS, guidance_scale=4.0)
    latents = sample(prior, torch.tensor([3, 5]), draws, settings=settings, terms=[Conditional(scale=0.3)])
    own = (prior.decode_pixels(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(guided - own).max() <= 1e-4


def state_of(pipe):
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return (
        [(module.training, len(module._forward_hooks)) for network in networks for module in network.modules()],
        [parameter.requires_grad for network in networks for parameter in network.parameters()],
        {name for name in vars(pipe.scheduler) if not name.startswith("_")},
    )


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.stable_diffusion_xl])
def test_a_scale_of_zero_and_the_end_of_the_block_leave_the_pipeline_as_it_was(make, photographs):
    pipe = make()
    pipe.unet.train()
    call = {"num_inference_steps": 3, "output_type": "np", "height": 32, "width": 32}
    plain, before = pipe("a cat", generator=torch.manual_seed(1), **call).images, state_of(pipe)
    for term in (Pull(scale=0), dap.terms.SetEnergy(scale=0, references=4)):
        real = () if isinstance(term, Pull) else (photographs,)
        with dap.pipelines.guide(pipe, term, *real, classes="cat" if real else None):
            images = pipe("a cat", generator=torch.manual_seed(1), **call).images
        assert np.array_equal(images, plain)
    with pytest.raises(ZeroDivisionError), dap.pipelines.guide(pipe, Pull()):
        pipe("a cat", callback_on_step_end=lambda *_: 1 / 0, **call)
    assert state_of(pipe) == before
    assert np.array_equal(pipe("a cat", generator=torch.manual_seed(1), **call).images, plain)


def test_a_term_of_ones_own_needs_no_images(dit):
    call = {"num_inference_steps": STEPS, "output_type": "np"}
    plain = dit([3], generator=torch.manual_seed(1), **call).images
    with dap.pipelines.guide(dit, [Pull(), Length(scale=1e-4)]), torch.inference_mode():
        first, again = (dit([3], generator=torch.manual_seed(1), **call).images for _ in range(2))
    assert np.array_equal(first, again) and np.abs(first - plain).max() > 0.01


@pytest.mark.parametrize(
    ("term", "real", "message"),
    [
        (dap.terms.Mode(), {}, "knows no classes of them; give source= and classes="),
        (dap.terms.Mode(), {"classes": ["dog"]}, "unknown class 'dog'"),
        (dap.methods.D4M(), {"classes": "cat"}, "'d4m' is more than a term"),
        (dap.terms.Mode(), {"classes": ["cat"]}, "expected 2, one for each image of the call, got 1"),
        (Pull(), {"classes": ["cat"]}, "a dap.sampling.Term has all that it compares with"),
        ("mood", {"classes": "cat"}, "unknown method 'mood'"),
    ],
)
def test_what_a_pipeline_has_not_is_asked_for(term, real, message, dit, photographs):
    source = {"source": photographs} if real else {}
    with pytest.raises(OptionError, match=message), dap.pipelines.guide(dit, term, **source, **real):
        dit([281, 281], num_inference_steps=2)


def test_pipelines_and_schedulers_that_cannot_be_guided_are_named(dit, photographs):
    with pytest.raises(OptionError, match=r"expected a DiTPipeline or .* got a DDPMPipeline"):
        dap.pipelines.guide(tiny.pixels(), Pull()).__enter__()
    pipe = tiny.stable_diffusion()
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(OptionError, match="UniPCMultistepScheduler: dap cannot guide"):
        dap.pipelines.guide(pipe, Pull()).__enter__()
    other = build_pipeline(scheduler=EulerDiscreteScheduler())
    with pytest.raises(OptionError, match="EulerDiscreteScheduler: DiTPipeline gives it latents of another scale"):
        dap.pipelines.guide(other, Pull()).__enter__()
    pipe = tiny.stable_diffusion()
    guided = dap.pipelines.guide(pipe, dap.terms.Mode(), photographs, classes="cat")
    with pytest.raises(OptionError, match="height=32, width=32"), guided:
        pipe("a cat", num_inference_steps=2, height=64, width=32)
