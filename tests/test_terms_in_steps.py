"""Terms in the denoising loop: an affine denoiser, ε = a x + b, whose chains are known in closed form; windows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import oracles
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from test_sampling import LABELS, slots

from dap.errors import DivergedError, OptionError
from dap.priors import Prediction
from dap.priors.dit import DiTPrior
from dap.sampling import DeltaTerm, EnergyTerm, Needs, SamplingSettings, Window, sample

# diffusers meets numpy 2 here
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

A, B = 0.4, -0.3
TARGET = 0.7


class Affine(tiny.StubPrior):
    """ε(x) = a x + b, features = the latent's pixels as tokens; the schedule is in float64, and so are its chains."""

    latent_shape, dtype = (2, 3, 3), torch.float64

    def __init__(self, clip=None):
        self.clip = clip
        self.seen = []

    def scheduler(self, name, num_inference_steps):
        kind = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[name or "ddim"]
        clipping = {"clip_sample": False} if self.clip is None else {"clip_sample_range": self.clip}
        scheduler = kind(**clipping)
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.init_noise_sigma = torch.ones(1, dtype=torch.float64)
        scheduler.set_timesteps(num_inference_steps)
        return scheduler

    def denoise(self, sample, timestep, labels, *, guidance_scale=1.0, taps=(), through=False):
        self.seen.append((sample.requires_grad, torch.is_grad_enabled(), frozenset(taps), through))
        eps = A * (sample if through else sample.detach()) + B
        return Prediction(eps, None, {1: sample.flatten(2).transpose(1, 2)} if 1 in taps else {})


@dataclass(frozen=True, kw_only=True)
class Pull(EnergyTerm):
    """E = ½ ‖y − target‖² of y = x_t (as features) or y = x̂_0."""

    needs: Needs = "features"
    taps: frozenset[int] = frozenset({1})
    scale: float = 0.3
    states: list = field(default_factory=list)

    def energy(self, state):
        self.states.append(state)
        values = state.features[1] if self.needs == "features" else state.x0
        return ((values - TARGET) ** 2).flatten(1).sum(1) / 2


def pull(at, *, on="features", **options):
    """A Pull of features, or one of x̂_0, whose gradient goes through the denoiser."""
    if on == "x0":
        options |= {"needs": "denoiser", "taps": frozenset()}
    return Pull(at=at, **options)


@dataclass(frozen=True, kw_only=True)
class Push(DeltaTerm):
    """The delta 0.2 x_t + 0.1."""

    scale: float = 0.3

    def delta(self, state):
        return 0.2 * state.sample + 0.1


def affine_chain(terms, *, steps=6, scheduler="ddim", sign=1.0):
    """The same chain by hand, place by place."""
    prior = Affine()
    schedule = prior.scheduler(scheduler, steps)
    generators = slots(2)
    x = torch.stack([torch.randn(prior.latent_shape, generator=g) for g in generators]).double()
    starts = {}
    for step, (now, after) in enumerate(oracles.cumulative_products(schedule)):
        alpha, sigma = math.sqrt(now), math.sqrt(1 - now)
        eps = A * x + B
        x0 = (x - sigma * eps) / alpha
        to_eps, to_x0, to_sample = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        for number, term in enumerate(terms):
            if not term.window.start * steps <= step < term.window.stop * steps:
                continue
            if isinstance(term, Push):
                change = term.scale * (0.2 * x + 0.1)
            else:
                on_x = term.needs == "features"
                y, slope = (x, 1.0) if on_x else (x0, (1 - sigma * A) / alpha)
                change = -sign * term.scale * slope * (y - TARGET)
                if term.normalise:
                    start = starts.setdefault(number, ((y - TARGET) ** 2).sum((1, 2, 3), keepdim=True) / 2)
                    change = change / start
            if term.at == "eps":
                to_eps += change if isinstance(term, Push) else -sigma * change
            elif term.at == "x0":
                to_x0 += change
            else:
                to_sample += change
        x0 = (x - sigma * (eps + to_eps)) / alpha + to_x0
        eps = (x - alpha * x0) / sigma
        noise = None
        if scheduler == "ddpm" and step < steps - 1:
            noise = torch.stack([torch.randn(prior.latent_shape, generator=g, dtype=torch.float64) for g in generators])
        make = oracles.ddpm_step if scheduler == "ddpm" else oracles.ddim_step
        x = make(x, eps, now, after, noise) + to_sample
    return x


def run_affine(terms, *, steps=6, scheduler="ddim", prior=None, **options):
    settings = SamplingSettings(num_inference_steps=steps, guidance_scale=1.0, scheduler=scheduler)
    return sample(prior or Affine(), torch.tensor([0, 1]), slots(2), settings=settings, terms=terms, **options)


SMALL = 1e-3  # x̂_0 at t = 999 is 150 times x_t: what acts there is taken small enough for the chain to stay near one
CHAINS = {
    "none": [],
    **{f"features at {at}": [pull(at)] for at in ("eps", "sample")},
    "features at x0": [pull("x0", scale=SMALL)],
    **{f"x0 at {at}": [pull(at, on="x0", scale=SMALL)] for at in ("eps", "x0", "sample")},
    **{f"normalised at {at}": [pull(at, normalise=True)] for at in ("eps", "x0", "sample")},
    **{f"delta at {at}": [Push(at=at)] for at in ("eps", "x0", "sample")},
    "window": [pull("eps", window=Window(0.25, 0.7))],
    "normalised inside a window": [pull("eps", normalise=True, scale=3.0, window=Window(0.4, 1.0))],
    "mixed": [
        pull("eps"),
        pull("sample", on="x0", scale=SMALL),
        pull("x0", normalise=True),
        Push(at="x0"),
        Push(at="eps"),
    ],
}


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize("chain", CHAINS)
def test_affine_chain_equals_its_recursion(chain, scheduler):
    terms = CHAINS[chain]
    ours, expected = run_affine(terms, scheduler=scheduler), affine_chain(terms, scheduler=scheduler)
    scale = expected.abs().max()
    assert scale < 100
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6 * max(1.0, float(scale)))
    if any(isinstance(term, Pull) for term in terms):
        flipped = affine_chain(terms, scheduler=scheduler, sign=-1.0)
        assert (ours - flipped).abs().max() > 1e-3
    if terms:
        assert (ours - affine_chain([], scheduler=scheduler)).abs().max() > 1e-3


@pytest.mark.parametrize("at", ["eps", "x0", "sample"])
def test_two_terms_add(at):
    twice = run_affine([pull(at, scale=SMALL), pull(at, scale=SMALL), Push(at=at), Push(at=at)])
    doubled = run_affine([pull(at, scale=2 * SMALL), Push(at=at, scale=0.6)])
    torch.testing.assert_close(twice, doubled, rtol=0, atol=1e-9)


def test_places_share_one_forward_pass(tiny_pipeline):
    """In one step the effects of two places add; both gradients go back through the same blocks."""
    prior, runs = DiTPrior(tiny_pipeline), []
    tiny_pipeline.transformer.transformer_blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))

    def after_first_step(*places):
        seen = []
        settings = SamplingSettings(num_inference_steps=2, guidance_scale=1.0)
        sample(
            prior, LABELS, slots(), settings=settings, terms=[pull(place) for place in places],
            callback_on_step_end=lambda *given: seen.append(given[-1]["latents"]) or given[-1],
        )  # fmt: skip
        return seen[0]

    none = after_first_step()
    eps, behind = after_first_step("eps") - none, after_first_step("sample") - none
    torch.testing.assert_close(after_first_step("eps", "sample") - none, eps + behind, rtol=0, atol=1e-4)
    assert min(eps.abs().max(), behind.abs().max()) > 1e-2
    assert len(runs) == 4 * 2


def test_a_pull_lowers_its_energy_at_every_place():
    for at in ("eps", "x0", "sample"):
        pulled, free = (run_affine([pull(at, scale=scale)]) for scale in (SMALL, 0.0))
        assert ((pulled - TARGET) ** 2).sum() < ((free - TARGET) ** 2).sum()


def test_normalisation_is_by_slot_and_starts_anew_with_each_call():
    term = pull("eps", normalise=True, scale=2.0)
    first, second = run_affine([term]), run_affine([term])
    assert torch.equal(first, second)


def test_an_energy_of_zero_is_not_divided_by_itself():
    @dataclass(frozen=True, kw_only=True)
    class Nothing(Pull):
        def energy(self, state):
            return 0 * state.features[1].flatten(1).sum(1)

    assert torch.equal(run_affine([Nothing(normalise=True)]), run_affine([]))


def test_gradient_is_open_only_where_an_energy_acts():
    prior = Affine()
    term = pull("eps", window=Window(0.25, 0.75))
    result = run_affine([term], steps=8, prior=prior)
    active = [False] * 2 + [True] * 4 + [False] * 2
    assert [(grad, enabled) for grad, enabled, _, _ in prior.seen] == [(flag, flag) for flag in active]
    assert [taps for _, _, taps, _ in prior.seen] == [frozenset({1}) if flag else frozenset() for flag in active]
    assert not any(through for _, _, _, through in prior.seen)
    assert [state.step for state in term.states] == [2, 3, 4, 5]
    assert not result.requires_grad and result.grad_fn is None
    assert not any(state.eps.requires_grad or state.x0.requires_grad for state in term.states)

    through = pull("eps", on="x0", scale=SMALL)
    prior = Affine()
    result = run_affine([through], prior=prior)
    assert all(flag for _, _, _, flag in prior.seen)
    assert all(state.eps.requires_grad and state.x0.requires_grad for state in through.states)
    assert result.grad_fn is None

    prior = Affine()
    run_affine([Push(at="eps")], prior=prior)
    run_affine([pull("eps", scale=0.0)], prior=prior)
    assert not any(grad or enabled for grad, enabled, _, _ in prior.seen)


def test_the_state_describes_the_step():
    term = pull("eps", scale=1e-9)
    run_affine([term], steps=4)
    schedule = Affine().scheduler("ddim", 4)
    assert [state.timestep for state in term.states] == schedule.timesteps.tolist()
    for state in term.states:
        assert state.num_steps == 4 and state.labels.tolist() == [0, 1]
        assert math.isclose(state.alpha**2, float(schedule.alphas_cumprod[state.timestep]), rel_tol=1e-12)
        assert math.isclose(state.alpha**2 + state.sigma**2, 1, rel_tol=1e-12)
        torch.testing.assert_close(state.alpha * state.x0 + state.sigma * state.eps, state.sample.detach().double())


def test_the_states_x0_is_clipped_where_the_scheduler_clips():
    term = pull("eps", scale=1e-9)
    run_affine([term], prior=Affine(clip=0.5))
    assert all(state.x0.abs().max() == 0.5 for state in term.states[:3])


WINDOWS = [
    ((0.0, 1.0), 5, [0, 1, 2, 3, 4]),
    ((0.0, 0.5), 4, [0, 1]),
    ((0.0, 0.5), 5, [0, 1, 2]),
    ((0.5, 1.0), 5, [3, 4]),
    ((0.4, 0.6), 5, [2]),
    ((0.3, 0.3), 10, []),
    ((0.0, 0.0), 3, []),
    ((1.0, 1.0), 3, []),
    ((0.0, 0.01), 3, [0]),
]


@pytest.mark.parametrize(("edges", "steps", "expected"), WINDOWS)
def test_window(edges, steps, expected):
    window = Window(*edges)
    assert [step for step in range(steps) if window.contains(step, steps)] == expected


@pytest.mark.parametrize("edges", [(-0.1, 1.0), (0.0, 1.1), (0.6, 0.5), (math.nan, 1.0)])
def test_window_refuses_what_is_none(edges):
    with pytest.raises(OptionError, match="0 <= start <= stop <= 1"):
        Window(*edges)


def test_callback_sees_and_replaces_latents():
    prior, calls = Affine(), []

    def watch(given, step, timestep, tensors):
        assert given is prior and isinstance(timestep, int)
        assert list(tensors) == ["latents", "energy.Pull"] and tensors["energy.Pull"].shape == (2,)
        calls.append((step, timestep, tensors["latents"].clone()))
        return {"latents": torch.full_like(tensors["latents"], 2.0)} if step == 1 else {}

    term = pull("eps", scale=1e-9)
    result = run_affine([term], steps=4, prior=prior, callback_on_step_end=watch)
    assert [call[0] for call in calls] == [0, 1, 2, 3]
    assert [call[1] for call in calls] == [750, 500, 250, 0]
    assert torch.equal(term.states[1].sample, calls[0][2]) and (term.states[2].sample == 2).all()
    assert torch.equal(result, calls[-1][2])
    untouched = run_affine([term], steps=4, callback_on_step_end=lambda *arguments: arguments[-1])
    assert not torch.equal(untouched, result)


def test_latents_that_are_not_finite_are_an_error():
    def spoil(_prior, step, _timestep, tensors):
        return {"latents": tensors["latents"] * (math.inf if step == 2 else 1)}

    with pytest.raises(DivergedError, match="scale"):
        run_affine([], steps=4, callback_on_step_end=spoil)


def test_hooks_are_removed_when_a_term_fails(tiny_pipeline):
    @dataclass(frozen=True, kw_only=True)
    class Failing(Pull):
        def energy(self, state):
            raise RuntimeError("no energy today")

    prior = DiTPrior(tiny_pipeline)
    with pytest.raises(RuntimeError, match="no energy today"):
        sample(prior, LABELS, slots(), settings=SamplingSettings(num_inference_steps=2), terms=[Failing()])
    assert not any(block._forward_hooks for block in tiny_pipeline.transformer.transformer_blocks)
    assert torch.is_grad_enabled()
