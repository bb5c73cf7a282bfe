"""MGD3: its modes, whole steps against a float64 oracle and by hand, the published window, and limits."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import oracles
import pytest
import tiny
import torch
from diffusers import DDPMScheduler
from PIL import Image

import dap
from dap import rng
from dap.config import to_json
from dap.data.classmap import build_class_map
from dap.data.from_labels import source_from_labels
from dap.errors import OptionError, RunMismatchError
from dap.methods import Context, DiT, Guided, Slot, Unit, get_method
from dap.methods.common.modes import Clusters, ModeTerm
from dap.methods.mgd3 import MGD3, Mode
from dap.priors import Prediction, load_prior
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings, StepState, Window, sample
from dap.sampling.named import named_sampling

# diffusers meets numpy 2 here
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ("Dress", "Bag", "Coat")  # the prior's labels 3, 8, 4; the source numbers them 0, 1, 2
GROUPS = ((2, 5, 3), (1, 2, 3), (4, 3, 1))  # images of each class that look alike, in the order of the source
UNIT = Unit(0, (Slot(2, 0), Slot(0, 1), Slot(2, 2), Slot(1, 0), Slot(0, 0)))
SEED = 5
RELEASED = {"scale": 0.1, "start": 0.0, "stop": 0.48, "at": "sample"}


def images(groups=GROUPS):
    """Pixels of each image, class after class: those of a group differ a little, and the last two groups are near."""
    draw, pixels = np.random.default_rng(0), []
    for sizes in groups:
        patterns = draw.integers(0, 256, (3, 32, 32))
        patterns[2] = 0.6 * patterns[1] + 0.4 * patterns[2]
        for size, pattern in zip(sizes, patterns, strict=True):
            pixels += [np.clip(pattern + draw.integers(-9, 10, (32, 32)), 0, 255) for _ in range(size)]
    return np.stack(pixels).astype(np.uint8)


def context(prior, ipc=3, channels=1, **settings):
    pixels, labels = images(), np.repeat(np.arange(len(NAMES)), [sum(sizes) for sizes in GROUPS])
    source = source_from_labels("alike", labels, NAMES, lambda index: Image.fromarray(pixels[index]))
    settings = SamplingSettings(**{"num_inference_steps": 3, "guidance_scale": 3.0, **settings})
    entries = build_class_map(source, prior.labels)
    return Context(
        source, entries, prior, settings, seed=SEED, ipc=ipc, size=32, channels=channels, latent_dtype="float32"
    )


def make(method, context, unit=UNIT):
    return method.make(context, unit, method.prepare(context))


def means_of_groups(vae, channels=1):
    """By class: (images, float64 mean of their latents, row of the nearest image) of each group of images."""
    pixels = torch.from_numpy(images()).double()[:, None].expand(-1, channels, -1, -1) / 127.5 - 1
    with torch.no_grad():
        z = oracles.double(vae).encode(pixels).latent_dist.mean * vae.config.scaling_factor
    found, start = {}, 0
    for name, sizes in zip(NAMES, GROUPS, strict=True):
        found[name] = []
        for size in sizes:
            own = z[start : start + size]
            distances = ((own - own.mean(0)) ** 2).flatten(1).sum(1)
            found[name].append((size, own.mean(0), start + int(distances.argmin())))
            start += size
    return found


def modes_of(vae, channels=1):
    """The mode of each slot of UNIT: of the largest group first."""
    by_size = {
        name: sorted(groups, key=lambda group: -group[0]) for name, groups in means_of_groups(vae, channels).items()
    }
    return torch.stack([by_size[NAMES[slot.class_index]][slot.number][1] for slot in UNIT.slots])


def test_modes_are_the_means_of_the_clusters_and_the_largest_is_the_first(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    artefact = MGD3().prepare(given)
    record = json.loads(json.dumps(MGD3().record(given, artefact)))
    for name, groups in means_of_groups(tiny_pipeline.vae).items():
        by_size = sorted(groups, key=lambda group: -group[0])
        assert record["sizes"][name] == [size for size, _, _ in by_size] == sorted(record["sizes"][name], reverse=True)
        for number, (size, mean, row) in enumerate(by_size):
            ours = artefact.latents[name][number]
            torch.testing.assert_close(ours.double(), mean, rtol=0, atol=1e-5)
            assert record["nearest"][name][number] == str(row) or size == 2  # two are as near as each other
    assert set(record) == {"sizes", "nearest"}


def test_clusters_in_another_order_keep_their_rows():
    found = Clusters(np.array([[0.0], [1.0], [2.0]]), np.array([0, 1, 2, 2])).in_order(np.array([2, 0, 1]))
    assert found.centers.ravel().tolist() == [2.0, 0.0, 1.0] and found.labels.tolist() == [1, 2, 0, 0]


def oracle_chain(pipeline, method, given, modes, *, sign=1.0, learned=False):
    """Float64 latents after each step, by the formulas of the paper and of the released code."""
    transformer = oracles.double(pipeline.transformer)
    settings, shape = given.settings, (4, 8, 8)
    labels = torch.tensor([(3, 8, 4)[slot.class_index] for slot in UNIT.slots])
    scheduler = given.prior.scheduler(settings.scheduler, settings.num_inference_steps)
    generators = [rng.generator(SEED, "slot", NAMES[slot.class_index], slot.number) for slot in UNIT.slots]
    x = torch.stack([torch.randn(shape, generator=g) for g in generators]).double()
    steps, n = [], settings.num_inference_steps
    schedule = zip(scheduler.timesteps.tolist(), oracles.cumulative_products(scheduler), strict=True)
    for step, (t, (now, after)) in enumerate(schedule):
        with torch.no_grad():
            eps, rest = oracles.noise_estimate(transformer, x, t, labels, settings.guidance_scale)
        beta, sigma = 1 - now / after, (1 - now) ** 0.5
        std = ((1 - after) / (1 - now) * beta) ** 0.5
        if learned:
            least = max((1 - after) / (1 - now) * beta, 1e-20)
            std = torch.exp(0.5 * ((rest + 1) / 2 * np.log(beta) + (1 - (rest + 1) / 2) * np.log(least)))
        x0 = (x - sigma * eps) / now**0.5
        weight = method.scale if method.start * n <= step < method.stop * n else 0.0
        pull = sign * weight * (modes - x0)
        if method.at == "eps":
            eps = eps - sigma * pull
        elif method.at == "x0":
            eps = (x - now**0.5 * (x0 + std * pull)) / sigma
        if settings.scheduler == "ddim":
            x = oracles.ddim_step(x, eps, now, after)
        else:
            noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).double() if t > 0 else None
            x = oracles.ddpm_step(x, eps, now, after, noise, rest if learned else None)
        if method.at == "sample":
            x = x + std * pull
        elif method.at == "ddim":
            x = x + now**0.5 * pull
        steps.append(x)
    return steps


METHODS = {
    "default": (MGD3(), {}),
    "paper": (MGD3(**RELEASED), {}),
    "ddim": (MGD3(), {"scheduler": "ddim"}),
    "paper's ddim": (MGD3(at="eps"), {"scheduler": "ddim"}),
    "released ddim": (MGD3(at="ddim", scale=0.1), {"scheduler": "ddim"}),
    "eps": (MGD3(at="eps", scale=0.5), {}),
    "window": (MGD3(start=0.3, stop=0.7, scale=1.0), {}),
    "all steps": (MGD3(stop=1.0, at="sample"), {"scheduler": "ddim", "guidance_scale": 1.0}),
}


def trace(method, given):
    """Latents after each step, float64."""
    given, ours = oracles.traced(given)
    last = make(method, given)
    assert torch.equal(ours[-1], last.double())
    return ours


@pytest.mark.parametrize("name", METHODS)
def test_guided_steps_equal_the_oracle(tiny_pipeline, name):
    method, settings = METHODS[name]
    given = context(DiTPrior(tiny_pipeline), **settings)
    modes = modes_of(tiny_pipeline.vae)
    ours = trace(method, given)
    expected = oracle_chain(tiny_pipeline, method, given, modes)
    assert len(ours) == len(expected) == 3
    for mine, exact in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=0, atol=3e-5)
    unguided = oracle_chain(tiny_pipeline, dataclasses.replace(method, scale=0.0), given, modes)
    away = oracle_chain(tiny_pipeline, method, given, modes, sign=-1.0)
    others = oracle_chain(tiny_pipeline, method, given, modes[[2, 4, 0, 1, 1]])
    for other in (unguided, away, others):
        assert (ours[-1] - other[-1]).abs().amax((1, 2, 3)).min() > 1e-3, "every slot goes to its own mode"


def test_a_learned_variance_scales_the_pull_of_each_value(tiny_learned_pipeline):
    given = context(DiTPrior(tiny_learned_pipeline, learned_variance=True), channels=3)
    modes = modes_of(tiny_learned_pipeline.vae, channels=3)
    ours = trace(MGD3(**RELEASED), given)
    exact = oracle_chain(tiny_learned_pipeline, MGD3(**RELEASED), given, modes, learned=True)
    torch.testing.assert_close(ours[-1], exact[-1], rtol=0, atol=1e-4)
    unguided = oracle_chain(tiny_learned_pipeline, MGD3(scale=0.0), given, modes, learned=True)
    assert (ours[-1] - unguided[-1]).abs().amax((1, 2, 3)).min() > 1e-3


class Half(tiny.StubPrior):
    """ε = ½ everywhere, latents of one number, two steps with ᾱ = 0.36 and 0.64."""

    def scheduler(self, name, num_inference_steps):
        scheduler = DDPMScheduler(num_train_timesteps=2, trained_betas=[0.36, 0.4375], clip_sample=False)
        scheduler.set_timesteps(num_inference_steps)
        return scheduler

    def denoise(self, sample, timestep, labels, *, guidance_scale=1.0, taps=(), through=False):
        return Prediction(torch.full_like(sample, 0.5), None, {})


@pytest.mark.parametrize("at", ["sample", "x0", "eps"])
def test_the_published_step_by_hand(at):
    """α_t = 0.6, √(1 − ᾱ_t) = 0.8; β = 1 − 0.36/0.64 = 0.4375; σ_t² = 0.36/0.64 · 0.4375 = 0.24609375.

    The posterior's mean is √0.64 · 0.4375/0.64 x̂_0 + √0.5625 · 0.36/0.64 x_t = 0.546875 x̂_0 + 0.421875 x_t.
    """
    seen = []
    term = ModeTerm(modes=torch.full((1, 1, 1, 1), 3.0), window=Window(0.0, 0.5), scale=0.1, at=at)
    sample(
        Half(), torch.tensor([0]), [rng.generator("hand")], settings=SamplingSettings(2, 1.0), terms=[term],
        callback_on_step_end=lambda prior, step, t, tensors: seen.append(tensors["latents"].item()) or tensors,
    )  # fmt: skip
    generator = rng.generator("hand")
    x, noise = (torch.randn((1, 1, 1), generator=generator).item() for _ in range(2))
    x0, std = (x - 0.4) / 0.6, 0.4960783708246107
    mean = 0.546875 * x0 + 0.421875 * x
    moved = {
        "sample": mean + 0.1 * std * (3 - x0),
        "x0": mean + 0.546875 * 0.1 * std * (3 - x0),
        "eps": mean + 0.546875 * (0.8 / 0.6) * 0.8 * 0.1 * (3 - x0),  # x̂_0 − (0.8 / 0.6) · (−0.8 · 0.1 · g)
    }
    assert seen[0] == pytest.approx(moved[at] + std * noise, abs=1e-6)


def test_the_published_window_is_the_first_24_of_50_steps():
    """The released code counts t from 49 down to 0 and guides while t > 25."""
    preset = MGD3(**MGD3.presets["paper"])
    assert preset == MGD3(**RELEASED)
    window = Window(preset.start, preset.stop)
    guided = [step for step in range(50) if window.contains(step, 50)]
    assert guided == [49 - t for t in range(49, -1, -1) if t > 25] and len(guided) == 24
    assert [step for step in range(50) if Window(0.0, MGD3().stop).contains(step, 50)] == list(range(25))


@pytest.mark.parametrize(
    ("options", "pull"), [({"by_signal": True}, 0.6), ({}, 0.1), ({"at": "x0"}, 0.1), ({"at": "eps"}, -0.8)]
)
def test_the_pull_is_by_the_ancestral_noise_the_signal_or_the_noise_level(options, pull):
    zero, mode = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    state = StepState(0, 1, 1, 0.6, 0.8, 0.1, zero, zero, zero, torch.zeros(1, dtype=torch.int64), {})
    assert ModeTerm(modes=mode, **{"at": "sample"} | options).delta(state).item() == pytest.approx(pull)


def test_the_preset_of_stable_diffusion_guides_while_t_is_above_500():
    preset, sampling = get_method("mgd3:sd"), named_sampling("mgd3-sd")
    assert (preset.at, preset.start) == ("sample", 0.0) and MGD3.sampled_by["sd"] == "mgd3-sd"
    settings = SamplingSettings.choose({}, "mgd3-sd")
    assert (settings.num_inference_steps, settings.guidance_scale, settings.scheduler) == (50, 8.0, "ddpm")
    assert not sampling.learned_variance  # σ_t is that of the posterior
    scheduler = DDPMScheduler(timestep_spacing="leading", steps_offset=1)  # as the pipeline's own
    scheduler.set_timesteps(50)
    window = Window(preset.start, preset.stop)
    guided = [t for step, t in enumerate(scheduler.timesteps.tolist()) if window.contains(step, 50)]
    assert guided == [t for t in scheduler.timesteps.tolist() if t > 500] and len(guided) == 25


def test_the_preset_of_stable_diffusion_runs_as_published(photographs, tmp_path, caplog):
    """50 steps of DDPM at guidance 8, with the class's name as the prompt; no warning says that something differs."""
    prior = load_prior(tiny.stable_diffusion(), options={"template": "{}"})
    settings = {"prior": prior, "sampling": "mgd3-sd", "ipc": 2, "progress": False}
    made = dap.distill(photographs, method="mgd3:sd", out=tmp_path / "a", **settings)
    assert made.manifest["options"]["sampling"]["num_inference_steps"] == 50
    assert not [record for record in caplog.records if "published" in record.message]
    plain = dap.distill(photographs, method="dit", out=tmp_path / "b", **settings)
    assert not torch.equal(made.to_torch()[0], plain.to_torch()[0])


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++"])
def test_scale_zero_is_dit_to_the_bit(tiny_pipeline, scheduler):
    given = context(DiTPrior(tiny_pipeline), scheduler=scheduler)
    plain = make(DiT(), given)
    assert torch.equal(make(MGD3(scale=0.0), given), plain)
    assert torch.equal(make(MGD3(start=0.5, stop=0.5), given), plain)
    for method in (MGD3(), MGD3(**MGD3.presets["paper"])):
        assert (make(method, given) - plain).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.equal(make(MGD3(), given), make(MGD3(), given))
    assert torch.equal(make(MGD3(), given), make(Guided((Mode(),)), given))


def test_one_mode_and_a_large_scale_land_on_the_mode(tiny_pipeline):
    """Late in the chain, with λ · σ_t = 1, x̂_0 is the mode itself."""
    given = context(DiTPrior(tiny_pipeline), ipc=1, num_inference_steps=20, guidance_scale=1.0)
    scheduler = given.prior.scheduler(None, 20)
    now, after = oracles.cumulative_products(scheduler)[18]
    std = ((1 - after) / (1 - now) * (1 - now / after)) ** 0.5
    unit = Unit(0, tuple(Slot(index, 0) for index in range(3)))
    method = MGD3(scale=1 / std, start=0.9, stop=0.95)
    artefact = method.prepare(given)
    modes = artefact.of(given, unit)
    assert artefact.sizes == {"Dress": [10], "Bag": [6], "Coat": [8]}
    landed, free = method.make(given, unit, artefact), DiT().make(given, unit, None)
    distances = [(latents - modes).flatten(1).norm(dim=1) for latents in (landed, free)]
    assert (distances[0] < 0.2 * distances[1]).all()


def test_a_class_with_too_few_images_is_refused(tiny_pipeline):
    with pytest.raises(OptionError, match="class 'Bag' has 6 images, fewer than the modes that ipc=7 needs: lower ipc"):
        MGD3().prepare(context(DiTPrior(tiny_pipeline), ipc=7))


def test_a_run_from_the_source_or_its_index_which_cannot_grow(tiny_folder, tmp_path, monkeypatch):
    pixels = images()
    for name, start in (("Dress", 0), ("Bag", 10)):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(pixels[start + number]).save(tmp_path / "tree" / name / f"{number}-alike.png")
    options = {"prior": str(tiny_folder), "num_inference_steps": 3, "progress": False}
    first = dap.distill(tmp_path / "tree", method=MGD3(), ipc=2, out=tmp_path / "out", **options)
    manifest = json.loads((first.path / "dap.json").read_text())
    assert manifest["record"]["sizes"] == {"Bag": [5, 1], "Dress": [4, 2]} and manifest["status"] == "complete"
    with pytest.raises(RunMismatchError, match="cannot grow to 3"):
        dap.distill(tmp_path / "tree", method=MGD3(), ipc=3, out=tmp_path / "out", **options)
    index = dap.build_index(tmp_path / "tree", out=tmp_path / "index", timesteps=1, **options)
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "empty"))
    again = dap.distill(index=index, method=MGD3(), ipc=2, out=tmp_path / "again", **options)
    record = json.loads((again.path / "dap.json").read_text())["record"]
    assert record["sizes"] == manifest["record"]["sizes"]
    alike = {"Bag": ({1, 2, 3, 4, 5}, {0}), "Dress": ({2, 3, 4, 5}, {0, 1})}
    for name, groups in alike.items():
        for found in (record, manifest["record"]):
            numbers = [int(image_id.removeprefix(f"{name}/")[0]) for image_id in found["nearest"][name]]
            assert all(number in group for number, group in zip(numbers, groups, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "scale: expected a number of at least 0, got -1.0"),
        ({"scale": float("nan")}, "scale"),
        ({"at": "x_0"}, "unknown at 'x_0'; did you mean 'x0'"),
        ({"start": 0.6, "stop": 0.5}, "0 <= start <= stop <= 1"),
    ],
    ids=str,
)
def test_options_are_checked_when_the_method_is_made(options, message):
    for kind in (MGD3, Mode):
        with pytest.raises(OptionError) as error:
            kind(**options)
        assert message in str(error.value)


def test_a_term_is_its_json():
    both = Guided(({"name": "mode", "scale": 0.2, "at": "sample"},))
    assert both.terms == (Mode(scale=0.2, at="sample"),)
    assert to_json(both)["terms"][0] == {"name": "mode", "scale": 0.2, "start": 0.0, "stop": 0.5, "at": "sample"}
    assert MGD3.presets["fashion"] == {key: value for key, value in to_json(MGD3()).items() if key != "name"}
