"""CoDA: whole steps against a float64 oracle, the published window, runs and options."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import oracles
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image
from test_mgd3 import NAMES, SEED, UNIT, context, images, make, trace

import dap
from dap import rng
from dap.config import to_json
from dap.errors import OptionError, RunMismatchError
from dap.methods import CoDA, DiT, Guided, get_method
from dap.methods.coda import Representative, RepresentativeTerm
from dap.methods.common.modes import Clusters
from dap.priors.dit import DiTPrior
from dap.sampling import StepState, Window, denoise_in_parts
from dap.selection import density

# diffusers meets numpy 2 here
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL = {"n_components": 2, "n_neighbors": 4, "min_cluster_size": 3, "min_samples": 1}  # for 6 to 10 images of a class


def latents_of_images(vae):
    pixels = torch.from_numpy(images()).double()[:, None] / 127.5 - 1
    with torch.no_grad():
        return oracles.double(vae).encode(pixels).latent_dist.mean * vae.config.scaling_factor


def test_representatives_are_real_latents_of_their_class(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    method = CoDA(**SMALL)
    artefact = method.prepare(given)
    record = json.loads(json.dumps(method.record(given, artefact)))
    assert set(record) == {"sizes", "representatives"}
    exact = latents_of_images(tiny_pipeline.vae)
    for position, name in enumerate(NAMES):
        rows = [int(image_id) for image_id in record["representatives"][name]]
        assert len(set(rows)) == 3 and all(given.source.labels[row] == position for row in rows)
        torch.testing.assert_close(artefact.latents[name].double(), exact[rows], rtol=0, atol=1e-5)
        assert record["sizes"][name] == sorted(record["sizes"][name], reverse=True)
        assert sum(record["sizes"][name]) <= (10, 6, 8)[position]


def test_seeds_are_the_runs_and_the_classes_and_what_is_in_no_cluster_counts_for_none(
    tiny_pipeline, monkeypatch, tmp_path
):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path))  # where no other test has left modes
    given, seen = context(DiTPrior(tiny_pipeline)), []

    def spy(rows, count, **options):
        seen.append(options)
        labels = np.minimum(np.arange(len(rows)), count - 1)
        labels[-1] = -1  # in no cluster
        return density.DensityClusters(np.arange(count), labels)

    monkeypatch.setattr("dap.methods.coda.density_clusters", spy)
    method = CoDA(**SMALL)
    artefact = method.prepare(given)
    method.prepare(given)  # from the cache
    method.prepare(dataclasses.replace(given, seed=6))
    seeds = [options.pop("seed") for options in seen]
    assert len(seeds) == len(set(seeds)) == 6
    assert all(options == SMALL for options in seen)
    assert artefact.sizes["Dress"] == [1, 1, 7]


def test_a_row_in_no_cluster_counts_for_none():
    found = Clusters(np.array([[0.0], [1.0]]), np.array([0, -1, 1, 1])).in_order(np.array([1, 0]))
    assert found.labels.tolist() == [1, -1, 0, 0]


def oracle_chain(pipeline, method, given, points, *, sign=1.0):
    """Float64 latents after each step, with Δε as it is released: of the conditional x̂_0, inside the guidance."""
    transformer, settings = oracles.double(pipeline.transformer), given.settings
    labels = torch.tensor([(3, 8, 4)[slot.class_index] for slot in UNIT.slots])
    scheduler = given.prior.scheduler(settings.scheduler, settings.num_inference_steps)
    generators = [rng.generator(SEED, "slot", NAMES[slot.class_index], slot.number) for slot in UNIT.slots]
    x = torch.stack([torch.randn((4, 8, 8), generator=g) for g in generators]).double()
    steps, n, w = [], settings.num_inference_steps, settings.guidance_scale
    schedule = zip(scheduler.timesteps.tolist(), oracles.cumulative_products(scheduler), strict=True)
    for step, (t, (now, after)) in enumerate(schedule):
        with torch.no_grad():
            conditional, _ = oracles.noise_estimate(transformer, x, t, labels, 1.0)
            unconditional, _ = oracles.noise_estimate(transformer, x, t, torch.full_like(labels, 1000), 1.0)
        x0 = (x - (1 - now) ** 0.5 * conditional) / now**0.5
        change = torch.zeros_like(x)
        if method.start * n <= step < method.stop * n:
            karras = ((1 - now) / now) ** 0.5
            change = -sign * (now / (1 - now)) ** 0.5 * method.scale * karras * (points - x0)
        eps = unconditional + w * (conditional + change - unconditional)
        if settings.scheduler == "ddim":
            x = oracles.ddim_step(x, eps, now, after)
        else:
            noise = torch.stack([torch.randn((4, 8, 8), generator=g) for g in generators]).double() if t > 0 else None
            x = oracles.ddpm_step(x, eps, now, after, noise)
        steps.append(x)
    return steps


METHODS = {
    "default": (CoDA(**SMALL), {}),
    "paper": (CoDA(**CoDA.presets["paper"] | SMALL), {}),
    "ddim": (CoDA(**SMALL), {"scheduler": "ddim"}),
    "no guidance beside it": (CoDA(**SMALL | {"scale": 0.3}), {"guidance_scale": 1.0}),
    "window": (CoDA(**SMALL | {"start": 0.3, "stop": 0.7}), {}),
    "published scales": (CoDA(**SMALL | {"scale": 0.05}), {"guidance_scale": 5.0}),
}


@pytest.mark.parametrize("name", METHODS)
def test_guided_steps_equal_the_oracle(tiny_pipeline, name):
    method, settings = METHODS[name]
    given = context(DiTPrior(tiny_pipeline), **settings)
    record = method.record(given, method.prepare(given))["representatives"]
    exact = latents_of_images(tiny_pipeline.vae)
    points = exact[[int(record[NAMES[slot.class_index]][slot.number]) for slot in UNIT.slots]]
    ours = trace(method, given)
    expected = oracle_chain(tiny_pipeline, method, given, points)
    assert len(ours) == len(expected) == 3
    for mine, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=5e-5)
    others = {
        "unguided": oracle_chain(tiny_pipeline, method, given, points, sign=0.0),
        "away": oracle_chain(tiny_pipeline, method, given, points, sign=-1.0),
        "to another's": oracle_chain(tiny_pipeline, method, given, points[[2, 4, 0, 1, 1]]),
    }
    for other, chain in others.items():
        assert (ours[-1] - chain[-1]).abs().amax((1, 2, 3)).min() > 1e-3, other


def test_the_estimate_of_the_label_alone_pulls(tiny_pipeline):
    """Conditional and guided estimate lie on both sides of the representative: the pull follows the conditional one."""
    shape = (1, 4, 8, 8)
    state = StepState(
        0, 1, 1, 0.6, 0.8, 0.0, torch.zeros(shape), torch.zeros(shape), torch.full(shape, 3.0),
        torch.zeros(1, dtype=torch.int64), {}, torch.full(shape, -1.0),
    )  # fmt: skip
    term = RepresentativeTerm(representatives=torch.ones(shape))
    assert term.delta(state).unique().tolist() == [-2.0]
    with pytest.raises(OptionError, match=r"needs the noise estimate before classifier-free guidance.*conditional"):
        term.delta(dataclasses.replace(state, x0_conditional=None))


@pytest.mark.parametrize("pass_size", [None, 2])
def test_each_prior_returns_the_conditional_estimate(tiny_pipeline, pass_size):
    prior = DiTPrior(tiny_pipeline)
    x, labels = torch.randn((3, 4, 8, 8), generator=rng.generator("x")), torch.tensor([3, 8, 4])

    def evaluate(scale):
        with torch.no_grad():
            return denoise_in_parts(prior, x, torch.tensor(500), labels, pass_size=pass_size, guidance_scale=scale)

    alone, guided = evaluate(1.0), evaluate(4.0)
    assert alone.conditional is None
    torch.testing.assert_close(guided.conditional, alone.eps, rtol=0, atol=1e-5)
    assert (guided.eps - alone.eps).abs().max() > 0.1


def test_the_released_samplers_noise_level_cancels_the_root():
    """σ_t is ``scheduler.sigmas[i]``, and ᾱ_t that of a rounded t; SDXL's schedule, 25 of Karras' steps."""
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, use_karras_sigmas=True,
        timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(25)
    cumulative = scheduler.alphas_cumprod[scheduler.timesteps]
    factors = (cumulative / (1 - cumulative)).sqrt() * scheduler.sigmas[:25]
    assert (factors[:19] - 1).abs().max() < 3e-3 and (factors - 1).abs().max() < 6e-2


def test_the_published_window_is_the_first_22_of_25_steps():
    """The released code guides while t is above the timestep of number ⌊25 · 0.9⌋ = 22."""
    preset = get_method("coda:paper")
    assert (preset.scale, preset.n_components, preset.n_neighbors) == (0.05, 50, 85)
    assert (preset.min_cluster_size, preset.min_samples) == (55, 3)
    window = Window(preset.start, preset.stop)
    assert [step for step in range(25) if window.contains(step, 25)] == list(range(22))


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++"])
def test_scale_zero_is_dit_to_the_bit(tiny_pipeline, scheduler):
    given = context(DiTPrior(tiny_pipeline), scheduler=scheduler)
    plain = make(DiT(), given)
    assert torch.equal(make(CoDA(**SMALL | {"scale": 0.0}), given), plain)
    assert torch.equal(make(CoDA(**SMALL | {"start": 0.5, "stop": 0.5}), given), plain)
    guided = make(CoDA(**SMALL), given)
    assert (guided - plain).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.equal(make(CoDA(**SMALL), given), guided)
    assert torch.equal(make(Guided((Representative(**SMALL),)), given), guided)


@pytest.fixture
def tree(tmp_path):
    """Six images of each of two classes."""
    pixels = images()
    for name, start in (("Dress", 0), ("Bag", 10)):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(pixels[start + number]).save(tmp_path / "tree" / name / f"{number}-alike.png")
    return tmp_path / "tree"


@pytest.fixture
def options(tiny_folder):
    return {"prior": str(tiny_folder), "method": CoDA(**SMALL), "num_inference_steps": 3, "progress": False}


def contents(distilled):
    return {file: (distilled.path / file).read_bytes() for file in distilled.files}


def test_a_run_that_was_stopped_ends_with_the_same_bytes_and_cannot_grow(tree, tmp_path, options, monkeypatch):
    whole = dap.distill(tree, ipc=2, out=tmp_path / "whole", **options)
    record = whole.manifest["record"]
    assert set(record["representatives"]) == {"Bag", "Dress"}
    calls, make_unit = [], CoDA.make

    def stopping(self, *arguments):
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make_unit(self, *arguments)

    one = options | {"batch_size": 2}
    monkeypatch.setattr(CoDA, "make", stopping)
    with pytest.raises(KeyboardInterrupt):
        dap.distill(tree, ipc=2, out=tmp_path / "stopped", **one)
    resumed = dap.distill(tree, ipc=2, out=tmp_path / "stopped", **one)
    assert [unit.index for unit in calls] == [0, 1, 1], "the first unit is not made again"
    undisturbed = dap.distill(tree, ipc=2, out=tmp_path / "undisturbed", **one)
    assert contents(resumed) == contents(undisturbed)
    assert resumed.manifest["record"] == undisturbed.manifest["record"] == record
    with pytest.raises(RunMismatchError, match="cannot grow to 3"):
        dap.distill(tree, ipc=3, out=tmp_path / "whole", **options)


def test_a_class_is_made_the_same_whatever_other_classes_there_are(tree, tmp_path, options):
    both = dap.distill(tree, ipc=2, out=tmp_path / "both", **options, batch_size=2)
    alone = dap.distill(tree, ipc=2, classes=["Dress"], out=tmp_path / "alone", **options, batch_size=2)
    for part in ("representatives", "sizes"):
        assert alone.manifest["record"][part] == {"Dress": both.manifest["record"][part]["Dress"]}
    theirs = contents(both)
    assert contents(alone) and all(content == theirs[file] for file, content in contents(alone).items())


def test_a_class_with_too_few_images_is_refused(tiny_pipeline):
    with pytest.raises(OptionError, match="class 'Bag' has 6 images, fewer than the modes that ipc=7 needs: lower ipc"):
        CoDA().prepare(context(DiTPrior(tiny_pipeline), ipc=7))
    artefact = CoDA().prepare(context(DiTPrior(tiny_pipeline), ipc=6))
    assert artefact.sizes["Bag"] == [1] * 6 and sorted(artefact.nearest["Bag"]) == [str(row) for row in range(10, 16)]


@pytest.mark.parametrize("missing", ["umap", "sklearn.cluster"])
def test_a_missing_library_is_named_before_anything_is_done(tree, tmp_path, options, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("dap.methods.coda.find_modes", lambda *arguments: pytest.fail("images were encoded"))
    with pytest.raises(OptionError, match=rf"{missing}.*: pip install 'dap-distill\[coda\]'"):
        dap.distill(tree, ipc=2, out=tmp_path / "out", **options)
    assert not (tmp_path / "out" / "train").exists()


def test_the_libraries_are_imported_when_they_are_needed():
    code = (
        "import sys, dap; dap.list_methods(); import dap.terms; print({'umap', 'sklearn', 'numba'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert ended.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "scale: expected a number of at least 0, got -1.0"),
        ({"scale": float("nan")}, "scale"),
        ({"start": 0.6, "stop": 0.5}, "0 <= start <= stop <= 1"),
        ({"n_components": 0}, "n_components: expected a whole number of at least 1, got 0"),
        ({"n_neighbors": 1}, "n_neighbors: expected a whole number of at least 2, got 1"),
        ({"min_cluster_size": 1}, "min_cluster_size: expected a whole number of at least 2, got 1"),
        ({"min_samples": 0}, "min_samples: expected a whole number of at least 1, got 0"),
        ({"min_samples": 1.5}, "min_samples: expected a whole number of at least 1, got 1.5"),
    ],
    ids=str,
)
def test_options_are_checked_when_the_method_is_made(options, message):
    for kind in (CoDA, Representative):
        with pytest.raises(OptionError) as error:
            kind(**options)
        assert message in str(error.value)


def test_a_term_is_its_json():
    both = Guided(({"name": "representative", "scale": 0.2, "n_neighbors": 15},))
    assert both.terms == (Representative(scale=0.2, n_neighbors=15),)
    assert Guided((to_json(both)["terms"][0],)) == both
    assert get_method("coda:fashion") == CoDA()
