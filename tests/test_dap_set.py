"""The set energy: against double sums, whole steps against a float64 oracle, and what makes it that method."""

from __future__ import annotations

import dataclasses
import itertools
import math
from types import SimpleNamespace

import kernel_oracle
import numpy as np
import oracles
import pytest
import test_dap
import torch

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import OptionError
from dap.features import noised_features
from dap.kernels import by_name, energy_distance, list_kernels, mmd2
from dap.methods import Context, DAPSet, DiT, Slot, Unit
from dap.methods.common.set_energy import set_energies
from dap.priors import load_prior
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings, StepState, sample
from dap.selection import k_means

NAMES, UNIT, context = test_dap.NAMES, test_dap.UNIT, test_dap.context


def kernel(name):
    """A kernel with numbers for its parameters."""
    numbers = {"bandwidth": 1.5} if "bandwidth" in {f.name for f in dataclasses.fields(by_name(name))} else {}
    return by_name(name, **numbers)


KERNELS = [kernel(name) for name in list_kernels() if name != "sum"]
KERNELS.append(by_name("sum", kernels=[kernel("rbf"), kernel("distance")]))


def slow_energies(x, references, kernel, weights):
    """e_i, pair by pair; weights (m, N)."""
    spec = dataclasses.asdict(kernel)
    pull = kernel_oracle.distance(x, references, spec) ** 2
    push = kernel_oracle.distance(x, x, spec) ** 2
    energies = []
    for i in range(len(x)):
        e = sum(0.5 * weights[i][n] * pull[i, n] for n in range(len(references)))
        if len(x) > 1:
            e -= sum(push[i, j] for j in range(len(x)) if j != i) / (4 * (len(x) - 1))
        energies.append(e)
    return np.array(energies)


def rows(n, d, *names):
    return torch.randn((n, d), generator=rng.generator("rows", n, d, *names), dtype=torch.float64)


CASES = {
    "plain": (rows(4, 3, "x"), rows(5, 3, "r")),
    "one slot": (rows(1, 3, "x"), rows(5, 3, "r")),
    "one reference": (rows(4, 3, "x"), rows(1, 3, "r")),
    "one of each": (rows(1, 2, "x"), rows(1, 2, "r")),
    "one dimension": (rows(6, 1, "x"), rows(3, 1, "r")),
    "ties": (rows(3, 2, "x")[[0, 0, 1, 2]], torch.cat([rows(3, 2, "x")[1:2], rows(2, 2, "r")[[0, 0, 1]]])),
}


@pytest.mark.parametrize("weighting", ["equal", "shared", "each"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_energies_and_gradient_equal_the_double_sum(kernel, case, weighting):
    x, references = CASES[case]
    weights = torch.full((len(references),), 1 / len(references), dtype=torch.float64)
    if weighting != "equal":
        shape = (len(references),) if weighting == "shared" else (len(x), len(references))
        weights = torch.rand(shape, generator=rng.generator("w"), dtype=torch.float64)
        weights = weights / weights.sum(-1, keepdim=True)
    for_each = weights.expand(len(x), -1).tolist()
    x = x.clone().requires_grad_()
    ours = set_energies(x, references, kernel, weights)
    exact = slow_energies(x.detach().numpy(), references.numpy(), kernel, for_each)
    np.testing.assert_allclose(ours.detach().numpy(), exact, rtol=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(ours.sum(), x)
    if kernel.name == "cosine" and case in ("one dimension",):
        return  # a sign has no slope but at zero

    def energies(moved):
        return torch.from_numpy(slow_energies(moved.numpy(), references.numpy(), kernel, for_each))

    slopes = oracles.central_differences(energies, x.detach(), 1e-5)
    torch.testing.assert_close(gradient, slopes, rtol=1e-5, atol=1e-5)
    if case == "plain":
        assert slopes.abs().max() > 1e-3


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_their_sum_is_half_m_times_the_unbiased_mmd_up_to_a_constant_of_the_references(kernel):
    references = rows(6, 3, "r")
    weights = torch.full((6,), 1 / 6, dtype=torch.float64)
    constants = []
    for seed in range(3):
        x = rows(4, 3, seed)
        total = float(set_energies(x, references, kernel, weights).sum())
        constants.append(total - 4 / 2 * float(mmd2(x, references, kernel)))
    assert max(constants) - min(constants) < 1e-5
    assert abs(float(mmd2(rows(4, 3, 0), references, kernel) - mmd2(rows(4, 3, 1), references, kernel))) > 1e-4


class SetOracle(test_dap.Oracle):
    """The set energy in float64: in the features, or in x̂_0."""

    def __init__(self, pipeline, method, given, ids):
        settings = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
        super().__init__(pipeline, SimpleNamespace(**settings, normalise=False), given, ids)
        self.sizes = None

    def latents(self, name):
        found = []
        for image_id in self.ids[name]:
            pixels = torch.from_numpy(test_dap.images()[int(image_id)]).double()[None, None] / 127.5 - 1
            with torch.no_grad():
                found.append(self.vae.encode(pixels).latent_dist.mean.flatten() * self.vae.config.scaling_factor)
        return torch.stack(found)

    def squared(self, a, b):
        """D², with the distance kernel or the linear one."""
        return 2 * (a - b).norm() if self.method.kernel.name == "distance" else ((a - b) ** 2).sum()

    def half_mean(self, references, squared):
        pairs = [squared(a, b) for a, b in itertools.permutations(references, 2)]
        return float(sum(pairs) / len(pairs)) / 2 if pairs else 1.0

    def set_energy(self, x, references):
        """Σ_i e_i / size over all classes; ``references`` by name."""
        if self.sizes is None:
            self.sizes = {name: self.half_mean(references[name], self.squared) for name in NAMES}
        total = torch.zeros((), dtype=torch.float64)
        for name in NAMES:
            own = [x[place] for place, (slot, _) in enumerate(self.slots) if slot == name]
            for i, a in enumerate(own):
                e = sum(self.squared(a, r) for r in references[name]) / (2 * len(references[name]))
                others = [self.squared(a, b) for j, b in enumerate(own) if j != i]
                if others:
                    e = e - sum(others) / (4 * len(others))
                total = total + e / self.sizes[name]
        return total

    def gradient(self, x, eps, t, now, after):
        moved = x.clone().requires_grad_()
        if self.method.space == "features":
            references = {name: self.references(name, t, now) for name in NAMES}
            features = self.pool(oracles.tokens(self.transformer, moved, t, self.labels, self.block))
            return torch.autograd.grad(self.set_energy(features, references), moved)[0]
        # x̂_0 − scale σ_t spread ∇e enters the step by its ε, which the chain adds as √(1 − ᾱ_t) times what is returned
        references = {name: self.latents(name) for name in NAMES}
        x0 = ((x - math.sqrt(1 - now) * eps) / math.sqrt(now)).requires_grad_()
        (slope,) = torch.autograd.grad(self.set_energy(x0.flatten(1), references), x0)
        std = math.sqrt((1 - after) / (1 - now) * (1 - now / after))
        spreads = {name: self.half_mean(references[name], lambda a, b: ((a - b) ** 2).sum()) for name in NAMES}
        spread = torch.tensor([spreads[name] for name, _ in self.slots]).view(-1, 1, 1, 1)
        return math.sqrt(now) / (1 - now) * std * spread * slope


METHODS = {
    "features": (DAPSet(space="features"), {}),
    "features, ddim, window": (DAPSet(space="features", start=0.3, scale=2.0), {"scheduler": "ddim"}),
    "features, sample": (
        DAPSet(space="features", at="sample", scale=0.3, kernel="linear", noise="shared", pooling="flat"),
        {},
    ),
    "latent": (DAPSet(space="latent"), {}),
    "latent, ddim, linear": (DAPSet(space="latent", kernel="linear", references=3), {"scheduler": "ddim"}),
}


@pytest.mark.parametrize("name", METHODS)
def test_guided_steps_equal_the_oracle(tiny_pipeline, name):
    method, settings = METHODS[name]
    given, ours = oracles.traced(context(DiTPrior(tiny_pipeline), **settings))
    artefact = method.prepare(given)
    method.make(given, UNIT, artefact)
    ids = method.record(given, artefact)["references"]
    expected = SetOracle(tiny_pipeline, method, given, ids).chain()
    unguided = SetOracle(tiny_pipeline, dataclasses.replace(method, scale=0.0), given, ids).chain()
    assert len(ours) == 3
    first = 1 if method.start else 0
    for step, (mine, exact, free) in enumerate(zip(ours, expected, unguided, strict=True)):
        torch.testing.assert_close(mine, exact, rtol=0, atol=5e-5)
        if step >= first:
            assert (exact - free).abs().amax((1, 2, 3)).min() > 1e-3, "every slot is guided"


@pytest.mark.parametrize("space", ["features", "latent"])
@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++"])
def test_scale_zero_is_dit_to_the_bit_and_the_default_is_not(tiny_pipeline, space, scheduler):
    given = context(DiTPrior(tiny_pipeline), scheduler=scheduler)
    plain = test_dap.make(DiT(), given)
    assert torch.equal(test_dap.make(DAPSet(scale=0.0, space=space, candidates=2, recurrences=1), given), plain)
    assert torch.equal(test_dap.make(DAPSet(start=0.5, stop=0.5, space=space), given), plain)
    assert (test_dap.make(DAPSet(space=space), given) - plain).abs().amax((1, 2, 3)).min() > 1e-3


def test_one_reference_and_the_linear_kernel_in_the_latent_is_a_pull_to_it(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    method, unit = DAPSet(space="latent", kernel="linear", scale=0.7), Unit(0, (Slot(1, 2),))  # "Bag" has one image
    artefact = method.prepare(given)
    term = method.term(given, unit, artefact)
    x0 = torch.randn((1, 4, 8, 8), generator=rng.generator("x0"))
    state = StepState(1, 3, 300, 0.8, 0.6, 0.25, x0, x0, x0, given.labels(unit), {})
    (z,) = torch.from_numpy(np.array(artefact.index.latents("Bag")))
    torch.testing.assert_close(term.scale * term.delta(state)[0], 0.7 * 0.25 * (z - x0[0]), rtol=1e-5, atol=1e-6)


def test_pairs_are_the_clusters_of_the_latents_the_largest_first(tiny_pipeline):
    given = dataclasses.replace(context(DiTPrior(tiny_pipeline)), ipc=3)
    method = DAPSet(space="latent", paired=True, candidates=2)
    artefact = method.prepare(given)
    unit = Unit(0, tuple(Slot(index, number) for index in (0, 2) for number in range(5)))
    term = method.term(given, unit, artefact)
    assert [group.label for group in term.sets.classes] == [3, 4]
    for group, name in zip(term.sets.classes, ("Dress", "Coat"), strict=True):
        latents = np.array(artefact.index.latents(name)).reshape(-1, 256)
        found = k_means(latents, 3, n_init=4, seed=rng.derive_seed(test_dap.SEED, "pairs", name)).labels
        clusters = [frozenset(np.flatnonzero(found == each)) for each in range(3)]
        own = [frozenset(np.flatnonzero(row)) for row in group.pairs.numpy()]
        assert set(own) == set(clusters) and own[3:] == own[:2], "a slot beyond the last cluster takes the first again"
        assert [len(each) for each in own[:3]] == sorted(map(len, clusters), reverse=True)
        torch.testing.assert_close(group.pairs.sum(1), torch.ones(5))
    x = torch.randn((10, 256), generator=rng.generator("x"))
    ours = term.sets.energies(x, 0)
    for group, name in zip(term.sets.classes, ("Dress", "Coat"), strict=True):
        latents = np.array(artefact.index.latents(name)).reshape(-1, 256)
        exact = slow_energies(x[group.places].numpy(), latents, method.kernel, group.pairs.tolist()) / group.size
        np.testing.assert_allclose(ours[group.places].numpy(), exact, rtol=1e-4)
    with pytest.raises(OptionError, match="paired: needs the same references at every step"):
        DAPSet(paired=True, selection="herding")


def test_the_candidates_that_are_kept_are_the_medoids(tiny_pipeline):
    given = dataclasses.replace(context(DiTPrior(tiny_pipeline)), ipc=3)
    method = DAPSet(space="features", candidates=3)
    artefact = method.prepare(given)
    unit = Unit(0, tuple(Slot(index, number) for index in (0, 2) for number in range(3)))
    kept = method.make(given, unit, artefact)
    scheduler = given.prior.scheduler(None, 3)
    for place, (index, name, label) in enumerate(((0, "Dress", 3), (2, "Coat", 4))):
        everyone = Unit(0, tuple(Slot(index, number) for number in range(9)))
        made = dataclasses.replace(method, candidates=1).make(given, everyone, artefact)
        t, ids = 0, [f"{name} slot {number}" for number in range(9)]
        features = noised_features(
            given.prior, made, ids, label=label, tap=artefact.tap, scheduler=scheduler, timestep=t, seed=test_dap.SEED
        )
        chosen = oracles.slow_medoids(features.double().numpy(), artefact.features[2, label].double().numpy(), 3)
        assert chosen != [0, 1, 2]
        assert torch.equal(kept[3 * place : 3 * place + 3], made[chosen])


def test_one_recurrence_is_none_and_two_are_a_loop_by_hand(tiny_pipeline):
    """With a window of the first two of three steps, and DDIM, whose step draws nothing."""
    prior = DiTPrior(tiny_pipeline)
    given = context(prior, scheduler="ddim")
    method = DAPSet(space="latent", stop=0.6)
    artefact = method.prepare(given)
    term = method.term(given, UNIT, artefact)
    labels, settings = given.labels(UNIT), given.settings
    once = sample(prior, labels, given.generators(UNIT), settings=settings, terms=[term], recurrences=1)
    assert torch.equal(once, sample(prior, labels, given.generators(UNIT), settings=settings, terms=[term]))
    assert torch.equal(once, method.make(given, UNIT, artefact))
    twice = dataclasses.replace(method, recurrences=2).make(given, UNIT, artefact)

    generators = given.generators(UNIT)
    scheduler = prior.scheduler("ddim", 3)

    def draw():
        return torch.stack([torch.randn((4, 8, 8), generator=g) for g in generators])

    x = draw()
    for step, (t, (now, after)) in enumerate(
        zip(scheduler.timesteps, oracles.cumulative_products(scheduler), strict=True)
    ):
        for repeat in range(2 if step < 2 else 1):
            if repeat:
                x = math.sqrt(now / after) * x + math.sqrt(1 - now / after) * draw()
            eps = prior.denoise(x, t, labels, guidance_scale=settings.guidance_scale).eps
            x0 = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
            if step < 2:
                std = math.sqrt((1 - after) / (1 - now) * (1 - now / after))
                state = StepState(step, 3, int(t), math.sqrt(now), math.sqrt(1 - now), std, x, eps, x0, labels, {})
                x0 = x0 + term.scale * term.delta(state)
            eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
            x = math.sqrt(after) * x0 + math.sqrt(1 - after) * eps
    torch.testing.assert_close(twice, x, rtol=0, atol=1e-4)
    assert (twice - once).abs().amax((1, 2, 3)).min() > 1e-2


def test_recurrences_and_options_that_cannot_be_are_refused_before_anything_is_written(tiny_folder, tmp_path):
    with pytest.raises(
        OptionError, match=r"recurrences=2: DPMSolverMultistepScheduler remembers its steps; use 'ddpm'"
    ):
        dap.distill(
            "fashion-mini", method=DAPSet(recurrences=2), scheduler="dpm++", prior=str(tiny_folder), ipc=1,
            classes=["Bag"], num_inference_steps=4, out=tmp_path / "out", progress=False,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
    for options, message in (
        ({"space": "pixels"}, "unknown space 'pixels'"),
        ({"candidates": 0}, "candidates: expected a whole number of at least 1, got 0"),
        ({"recurrences": 1.5}, "recurrences: expected a whole number of at least 1, got 1.5"),
    ):
        with pytest.raises(OptionError, match=message):
            DAPSet(**options)


def test_one_scale_works_across_steps_and_schedulers():
    """The built-in prior, five images of each of two classes, 25 and 50 steps of DDPM and of DDIM.

    It works where the finished sets are nearer to their references than unguided ones, by energy distance in features
    at the metrics' step, and nearer by much the same in all four.
    """
    prior, source = load_prior("fashion-dit"), open_source("fashion-mini", classes=["Bag", "Dress"])
    entries = build_class_map(source, prior.labels)
    unit = Unit(0, tuple(Slot(index, number) for index in range(2) for number in range(5)))
    falls, real = {}, {}
    for scheduler, steps in itertools.product(("ddpm", "ddim"), (25, 50)):
        settings = SamplingSettings.choose(
            prior.recommended, num_inference_steps=steps, scheduler=scheduler, guidance_scale=None, eta=None
        )
        given = Context(source, entries, prior, settings, 0, 5, 32, 1)
        method = DAPSet(space="features", pooling="mean", scale=30.0, references=64)
        artefact = method.prepare(given)

        def distance(latents, artefact=artefact):
            total = 0.0
            for index, entry in enumerate(entries):

                def features(rows, name, entry=entry):
                    return noised_features(
                        prior, rows, [f"{name} {number}" for number in range(len(rows))], label=entry.prior_label,
                        tap=artefact.tap, scheduler=prior.scheduler("ddpm", 1000), timestep=100, seed=1,
                    )  # fmt: skip

                if index not in real:  # the same for all schedulers
                    own = np.array(artefact.index.latents(entry.name))[::4]
                    real[index] = features(torch.from_numpy(own), "real")
                total += float(energy_distance(features(latents[5 * index :][:5], "slot"), real[index]))
            return total

        falls[scheduler, steps] = distance(DiT().make(given, unit, None)) - distance(method.make(given, unit, artefact))
    assert min(falls.values()) > 0, falls
    assert max(falls.values()) < 2 * min(falls.values()), falls
