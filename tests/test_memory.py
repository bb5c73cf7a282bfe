"""The plan of memory against what autograd really keeps, and work in parts against the whole."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, UNet2DConditionModel
from test_dap import context

import dap
from dap.features import encode_images
from dap.methods import IGD, LD3M, Slot, Unit, get_method
from dap.methods.common.network_memory import network_bytes, rehearse_network, training_bytes
from dap.methods.common.surrogate_training import train
from dap.nets import create_net
from dap.priors import Demand, NoPrior, StepBytes, batches, load_prior
from dap.priors.batches import Batches, first_stage_bytes, fitting
from dap.priors.dit import DiTPrior
from dap.priors.memory import FusedAttention, LiveBytes, peak_bytes, rehearse, without_data
from dap.priors.stable_diffusion import StableDiffusionPrior
from dap.priors.unet import UNetPrior, pass_values
from dap.run.folder import RunFolder
from dap.run.job import Request, resolve
from dap.run.memory import footprint
from dap.run.plan import plan
from dap.sampling import SamplingSettings, denoise_in_parts, sample

T = torch.tensor(400)
LABELS = torch.tensor([3, 0, 9, 1, 3])


@cache
def dit(side, layers=10, heads=16, head_dim=72, device="meta"):
    """A DiT prior of the width of DiT-XL/2 for latents of a side, with Stable Diffusion's VAE."""
    with torch.device(device), torch.random.fork_rng(devices=[]):
        transformer = DiTTransformer2DModel(
            num_layers=layers,
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            patch_size=2,
            sample_size=side,
            in_channels=4,
            out_channels=8,
            num_embeds_ada_norm=10,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
            block_out_channels=(128, 256, 512, 512) if device == "meta" else (8, 8, 8, 8), layers_per_block=2,
            norm_num_groups=32 if device == "meta" else 4,
        )  # fmt: skip
    scheduler = DDIMScheduler(clip_sample=False, beta_end=0.004)
    return DiTPrior(DiTPipeline(transformer, vae, scheduler, id2label={0: "cat"}))


def kept_by_autograd(run, weights):
    """Bytes of the storages, other than weights, that autograd keeps of what ``run`` returns."""
    sizes, alive = {}, []

    def keep(tensor):
        alive.append(tensor)  # so that no storage is freed, and its place taken by another
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        return tensor

    own = {tensor.untyped_storage()._cdata for tensor in weights}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(size for place, size in sizes.items() if place not in own)


def test_live_bytes_are_those_of_storages_that_are_alive():
    with LiveBytes() as counter:
        a = torch.empty(100, device="meta")
        b = a.view(10, 10).T  # the same storage
        c = a + 1
        assert (counter.live, counter.peak) == (800, 800)
        del a, c
        assert (counter.live, counter.peak) == (400, 800)
        del b
        d = torch.empty(25, dtype=torch.float16, device="meta").add_(1)
        assert (counter.live, counter.peak) == (50, 800)
        del d
    assert counter.live == 0


PRIORS = {
    "DiT": lambda: dit(16, 12, 4, 16, device="cpu"),
    "text": lambda: StableDiffusionPrior(tiny.stable_diffusion()).for_classes(["cat"]),
    "pixels": lambda: UNetPrior(tiny.pixels()),
    "built in": lambda: load_prior("fashion-dit", device="cpu"),
}


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("through", [False, True])
def test_the_meta_device_keeps_what_autograd_keeps_of_real_tensors(kind, through):
    """And the plan has more than the graph: the tensors at work, a large share in networks as small as these."""
    prior = PRIORS[kind]()
    demand = Demand(denoiser=True) if through else Demand(frozenset({len(prior.block_names) - 1}))
    label = next(iter(prior.labels_of(["cat"]).values()))

    def kept(prior, device):
        x = torch.randn(2, *prior.latent_shape, device=device, requires_grad=True)
        labels = torch.tensor([label, label], device=device)
        weights = [*prior.denoiser.parameters(), *prior.denoiser.buffers(), x]
        return kept_by_autograd(
            lambda: prior.denoise(x, T.to(device), labels, taps=demand.taps, through=through), weights
        )

    real, planned = kept(prior, "cpu"), prior.step_bytes(demand, guidance_scale=1.0).of(2)
    with FusedAttention():
        assert abs(kept(prior.without_data(), "meta") / real - 1) < 0.03
    assert real < planned < 1.6 * real


@pytest.mark.parametrize(("side", "block"), [(4, 9), (32, 9), (64, 9)])
def test_the_plan_at_the_width_of_dit_xl_is_what_autograd_keeps(side, block):
    """At 32, 256 and 512 pixels, on the meta device."""
    prior = dit(side)
    meta, x = prior.without_data(), torch.empty(2, 4, side, side, device="meta", requires_grad=True)
    labels, weights = torch.zeros(2, dtype=torch.int64, device="meta"), [*meta.denoiser.parameters()]
    with FusedAttention():
        kept = kept_by_autograd(lambda: meta.denoise(x, T.to("meta"), labels, taps={block}), weights)
    assert kept < prior.step_bytes(Demand(frozenset({block})), guidance_scale=1.0).of(2) < 1.25 * kept


def test_demands_are_in_order_and_the_same_for_each_slot():
    prior = dit(32)
    unguided, tapped, through = (
        prior.step_bytes(demand, guidance_scale=4.0)
        for demand in (Demand(), Demand(frozenset({5})), Demand(denoiser=True))
    )
    decoded = prior.step_bytes(Demand(denoiser=True, decoder=True, own=10**9), guidance_scale=4.0)
    assert 3 * unguided.slot < tapped.slot < through.slot / 3
    assert decoded.slot > through.slot + 10**9 and decoded.decoded == prior.image_bytes.decode_graph
    meta = prior.without_data()
    four = peak_bytes(lambda: rehearse(meta, Demand(frozenset({5})), 4.0, 4))
    assert abs(tapped.of(4) / four - 1) < 0.02


@pytest.mark.parametrize(("side", "widths", "layers"), [(512, (128, 256, 512, 512), 2), (32, (32, 64, 64), 1)])
def test_the_rule_for_the_first_stage_is_what_it_takes(side, widths, layers):
    """Stable Diffusion's VAE and one of small images, on the meta device."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths),
            latent_channels=4, block_out_channels=widths, layers_per_block=layers,
        ).requires_grad_(False)  # fmt: skip
        image, z = torch.empty(1, 3, side, side), torch.empty(1, 4, *(side >> len(widths) - 1,) * 2)
    encode, decode, graph = first_stage_bytes(side, 4, widths=widths, layers=layers)
    with torch.no_grad():
        assert abs(encode / peak_bytes(lambda: vae.encode(image).latent_dist.mean) - 1) <= 0.25
        assert abs(decode / peak_bytes(lambda: vae.decode(z).sample) - 1) < 0.05
    z.requires_grad_()
    assert abs(graph / peak_bytes(lambda: torch.autograd.grad(vae.decode(z).sample.sum(), z)) - 1) < 0.1


def test_the_rule_for_features_is_what_a_pass_takes():
    """A DiT of the width of XL at 256 pixels, and a U-Net of half the width of Stable Diffusion at 256."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=32, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(160, 320, 640, 640)
        )
        x, states = torch.empty(1, 4, 32, 32), torch.empty(1, 77, 768)
    with torch.no_grad():
        taken = peak_bytes(lambda: unet(x, T.to("meta"), encoder_hidden_states=states).sample)
    assert abs(4 * pass_values(unet) / taken - 1) < 0.25
    prior = dit(32)
    meta = prior.without_data()
    taken = peak_bytes(lambda: rehearse(meta, Demand(), 1.0, 1))
    assert abs(prior.image_bytes.features / taken - 1) < 0.25


def test_batches_follow_the_memory_of_an_image():
    assert Batches.of(load_prior("fashion-dit", device="cpu").image_bytes).encode == 256
    built_in = load_prior("fashion-dit", device="cpu").batches
    assert (built_in.encode, built_in.features) == (256, 256) and min(built_in.decode, built_in.decode_graph) >= 512
    xl = dit(32).batches
    assert 1 < xl.encode <= 32 and 1 < xl.decode <= 32 and xl.decode_graph < 4
    assert dit(64).batches.encode == xl.encode // 4
    assert (
        [fitting(2**n) for n in (20, 32, 40)] == [4096, 1, 1] and fitting(3 * 2**30) == 1 and fitting(2**20 + 1) == 2048
    )


def test_encoding_and_decoding_in_parts_gives_the_whole(tiny_pipeline, monkeypatch):
    prior = DiTPrior(tiny_pipeline)
    images = torch.randint(0, 256, (5, 1, 32, 32), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    latents = torch.randn((5, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    encoded, decoded, z = encode_images(prior, images), prior.decode(latents), latents.clone().requires_grad_()
    weights = torch.randn((5, 1, 32, 32), generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad((prior.decode_with_graph(z) * weights).sum(), z)
    monkeypatch.setattr(batches, "BUDGET", 2 * prior.image_bytes.decode_graph)
    assert prior.batches.decode_graph == 2
    calls = []
    monkeypatch.setattr(prior, "decode_pixels", lambda x: calls.append(len(x)) or DiTPrior.decode_pixels(prior, x))
    pixels = prior.decode_with_graph(z)
    assert calls == [2, 2, 1]
    torch.testing.assert_close(torch.autograd.grad((pixels * weights).sum(), z)[0], slope, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(batches, "BUDGET", 2 * prior.image_bytes.decode)
    calls.clear()
    torch.testing.assert_close(prior.decode(latents), decoded, rtol=0, atol=1)
    assert calls == [2, 2, 1]
    monkeypatch.setattr(batches, "BUDGET", 2 * prior.image_bytes.encode)
    torch.testing.assert_close(encode_images(prior, images), encoded, rtol=0, atol=1e-5)


def pass_sizes(prior, monkeypatch):
    """The numbers of slots with which the denoiser is called from now on."""
    sizes, whole = [], prior.denoise
    monkeypatch.setattr(
        prior, "denoise", lambda x, *args, **options: sizes.append(len(x)) or whole(x, *args, **options)
    )
    return sizes


@pytest.mark.parametrize(("taps", "through"), [({2}, False), ({1, 3}, False), ((), True), ({2}, True)])
def test_gradients_of_the_denoiser_in_parts_are_those_of_the_whole(tiny_pipeline, monkeypatch, taps, through):
    prior = DiTPrior(tiny_pipeline)
    x = torch.randn((5, 4, 8, 8), generator=torch.Generator().manual_seed(0)).requires_grad_()
    sizes, results = pass_sizes(prior, monkeypatch), []
    for pass_size in (None, 2):
        done = denoise_in_parts(
            prior, x, T, LABELS, pass_size=pass_size, guidance_scale=3.0, taps=taps, through=through
        )
        energy = sum(torch.cdist(h.mean(1), h.mean(1)).sum() for h in done.features.values())  # of all slots together
        if through:
            energy = energy + torch.cdist(done.eps.flatten(1), done.eps.flatten(1)).sum()
        results.append((done.eps.detach(), *torch.autograd.grad(energy, x)))
    assert sizes == [5, 2, 2, 1, 1, 2, 2] or sizes == [5, 2, 2, 1, 2, 2, 1]  # the backward pass evaluates parts again
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dap_set", "dap_set:features", "dap", "mgd3", "dap_set:medoids", "ld3m:tiny"])
def test_a_class_in_parts_makes_the_images_of_the_whole(make_pipeline, monkeypatch, name):
    given = context(DiTPrior(make_pipeline(out_channels=8)))
    method, unit = get_method(name), Unit(0, tuple(Slot(2, number) for number in range(3)))
    if name == "mgd3":  # of the three classes, the one with enough images for three modes
        given = dataclasses.replace(given, source=given.source.subset(["Coat"]), classes=given.classes[2:])
        unit = Unit(0, tuple(Slot(0, number) for number in range(3)))
    given = dataclasses.replace(given, ipc=3)
    artefact = method.prepare(given)
    whole = method.make(given, unit, artefact)
    sizes = pass_sizes(given.prior, monkeypatch)
    torch.testing.assert_close(
        method.make(dataclasses.replace(given, pass_size=2), unit, artefact), whole, rtol=1e-3, atol=1e-3
    )
    assert max(sizes) == 2


def test_a_sequence_fills_the_batch_with_classes():
    units = plan([(3,) * 5], 2, "sequence")
    assert [sorted({slot.class_index for slot in unit.slots}) for unit in units] == [[0, 1], [2, 3], [4]]
    assert [len(unit.slots) for unit in units] == [6, 6, 3]


def folders(tmp_path, images=4):
    from PIL import Image

    for name in "abc":
        (tmp_path / "source" / name).mkdir(parents=True)
        for number in range(images):
            Image.new("L", (32, 32), 40 * number).save(tmp_path / "source" / name / f"{number}.png")
    return tmp_path / "source"


def job(source, prior, method, ipc, **options):
    return resolve(Request(source=source, prior=prior, method=method, ipc=ipc, num_inference_steps=2, **options))


def test_units_of_older_versions_are_kept_where_a_manifest_has_no_pass_size(make_pipeline, tmp_path):
    """And a new run says how it divides a class that is larger than its batch."""
    source, prior = folders(tmp_path), DiTPrior(make_pipeline(names=("a", "b", "c")), name="tiny")
    options = {"batch_size": 2, "out": tmp_path / "out", "progress": False, "num_inference_steps": 2}
    dap.distill(source, prior=prior, method="mgd3", ipc=3, **options)
    manifest = json.loads((tmp_path / "out" / "dap.json").read_text())
    assert (manifest["batch_size"], manifest["pass_size"]) == (2, 2)
    del manifest["pass_size"]
    (tmp_path / "out" / "dap.json").write_text(json.dumps(manifest))
    assert RunFolder(tmp_path / "out", job(source, prior, "mgd3", 3)).pass_size is None
    surrogate = IGD(width=4, epochs=2, references=2, scale=0.01)
    new = RunFolder(tmp_path / "igd", job(source, prior, surrogate, 2), batch_size=2)
    assert (new.pass_size, [len(unit.slots) for unit in new.units]) == (2, [4, 2])
    new.begin({}, {}, {})
    again = RunFolder(tmp_path / "igd", job(source, prior, surrogate, 2))
    assert (again.pass_size, [len(unit.slots) for unit in again.units]) == (2, [4, 2])
    manifest = json.loads((tmp_path / "igd" / "dap.json").read_text())
    del manifest["pass_size"]
    (tmp_path / "igd" / "dap.json").write_text(json.dumps(manifest))
    old = RunFolder(tmp_path / "igd", job(source, prior, surrogate, 2))
    assert (old.pass_size, [len(unit.slots) for unit in old.units]) == (None, [2, 2, 2])


@pytest.mark.parametrize("name", ["dit", "dap", "dap_set", "dap_set:medoids", "igd:fashion", "mgd3", "random"])
def test_the_built_in_prior_makes_100_slots_at_once_and_keeps_its_manifest(name, tmp_path):
    made = RunFolder(tmp_path / "out", job("fashion-mini", "fashion-dit", name, 10, device="cpu"))
    made.begin({}, {}, {})
    manifest = json.loads((tmp_path / "out" / "dap.json").read_text())
    assert manifest["batch_size"] == 100 and "pass_size" not in manifest


def test_the_footprint_of_a_run_knows_its_method(tmp_path, make_pipeline):
    source = folders(tmp_path)
    prior = DiTPrior(make_pipeline(names=("a", "b", "c")), name="tiny")
    plans = {
        name: footprint(job(source, prior, name, 2))
        for name in ("random", "dit", "dap", "dap_set", "igd:fashion", "ld3m:tiny", "plug_and_play:paper")
    }
    assert plans["random"].stages == () and plans["random"].fit(1) is None and plans["random"].peak(4) == 0
    assert plans["dit"].peak(4) == plans["dit"].unit(4) < plans["dap"].peak(4)
    assert plans["dap"].peak(4) == plans["dap"].weights + plans["dap"].preparation
    steps = {name: plan.step(4) for name, plan in plans.items()}
    assert steps["dap_set"] == steps["dit"] < steps["dap"] < steps["plug_and_play:paper"]
    assert plans["dit"].disk == 0 and plans["ld3m:tiny"].disk == 12 * 4 * 64 * 2
    assert len(plans["ld3m:tiny"].stages) == 2
    # twelve references of 256 numbers (a sketch keeps shorter tokens as they are) at two steps, and their latents
    assert plans["dap"].disk == 4 * 12 * (2 * 256 + 4 * 64)
    run = job(source, prior, "dap", 2)
    folder = run.recipe.prepare(run.context()).index.path
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 1.1 * plans["dap"].disk
    small = plans["igd:fashion"].fit(10 * plans["igd:fashion"].stages[0].of(1))
    assert 8 <= small <= 12


def test_memory_of_a_network_is_what_autograd_keeps(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    net = create_net("convnet3", width=32, channels=1, classes=3, size=32, generator=torch.Generator())
    x = torch.randn(1, 1, 32, 32, requires_grad=True)
    kept = kept_by_autograd(lambda: net.requires_grad_(False)(x), [*net.parameters(), x])
    assert kept < network_bytes(given, "convnet3", 32) < 1.6 * kept  # with the tensors at work
    assert peak_bytes(lambda: rehearse_network(given, "convnet3", 32, second=True)) > 2 * kept
    assert LD3M().demands(given)[0].own > 3 * kept


def test_memory_of_training_a_surrogate_is_what_it_takes(tiny_pipeline, tmp_path):
    given = context(DiTPrior(tiny_pipeline))
    net = create_net("convnet3", width=32, channels=1, classes=3, size=32, generator=torch.Generator())
    weights, held = sum(tensor.nbytes for tensor in net.parameters()), 32 * 32 * len(given.source)
    taken = peak_bytes(lambda: train(given, net, tmp_path, epochs=2)) + weights + held
    assert abs(training_bytes(given, "convnet3", 32) / taken - 1) < 0.25


def test_preparation_is_planned_by_method(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    dit, mgd3, igd, classifier, both = (
        get_method(name, options).preparation_bytes(given)
        for name, options in (
            ("dit", {}), ("mgd3", {}), ("igd:fashion", {}), ("plug_and_play", {"constraint": "classifier"}),
            ("guided", {"terms": ({"name": "mode"}, {"name": "influence", "width": 32})}),
        )
    )  # fmt: skip
    assert dit == 0 and mgd3 == given.prior.encoding_bytes >= 256 * given.prior.image_bytes.encode
    assert igd == classifier == training_bytes(given, "convnet3", 32)
    assert both == max(igd, mgd3) and NoPrior((3, 8, 8)).encoding_bytes == 0


def test_priors_that_are_not_measured_take_their_slot_bytes():
    prior = NoPrior((3, 8, 8))
    assert prior.step_bytes(Demand(own=5), guidance_scale=1.0) == StepBytes(0, 6)
    assert prior.without_data() is prior and prior.weight_bytes == 0


def test_a_copy_without_data_takes_no_memory(tiny_pipeline):
    copied = without_data(tiny_pipeline.transformer)
    assert all(tensor.is_meta for tensor in (*copied.parameters(), *copied.buffers()))
    assert not any(tensor.is_meta for tensor in tiny_pipeline.transformer.parameters())


def test_sampling_in_parts_draws_the_same_noise(tiny_pipeline):
    prior, settings = DiTPrior(tiny_pipeline), SamplingSettings(num_inference_steps=3, guidance_scale=2.0)
    whole, parts = (
        sample(
            prior, LABELS, [torch.Generator().manual_seed(n) for n in range(5)], settings=settings, pass_size=pass_size
        )
        for pass_size in (None, 2)
    )  # fmt: skip
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
