"""Networks as users change them: distilled, quantised, compiled, in two threads, without names, or broken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch

from dap import rng
from dap.errors import DivergedError, FormatError, OptionError
from dap.priors.dit import DiTPrior
from dap.priors.stable_diffusion import StableDiffusionPrior
from dap.priors.unet import UNetPrior

T = torch.tensor(400)


def noise(prior, count=2):
    return torch.randn((count, *prior.latent_shape), generator=rng.generator(0))


def test_a_u_net_without_a_mid_block_is_read_at_its_last_down_block():
    pipeline = tiny.stable_diffusion()
    pipeline.unet.mid_block = None
    prior = StableDiffusionPrior(pipeline).for_classes(["cat"])
    assert prior.block_names == ("down 1", "down 2", "up 1", "up 2")
    assert prior.recommended["block"] == 2
    labels = torch.tensor([prior.labels_of(["cat"])["cat"]] * 2)
    assert prior.features(noise(prior), T, labels, 2).dim() == 3


@pytest.mark.parametrize("size", [[8, 8], (8, 8)])
def test_the_size_of_a_u_net_may_be_a_list(size):
    pipeline = tiny.stable_diffusion()
    pipeline.unet.register_to_config(sample_size=size)
    assert StableDiffusionPrior(pipeline).latent_shape == (4, 8, 8)


@pytest.mark.parametrize("size", [None, [8, 16], "8", 0])
@pytest.mark.parametrize("kind", ["dit", "text", "pixels"])
def test_a_network_without_the_size_of_a_square_is_refused(tiny_pipeline, kind, size):
    pipeline = {"dit": lambda: tiny_pipeline, "text": tiny.stable_diffusion, "pixels": tiny.pixels}[kind]()
    network = pipeline.transformer if kind == "dit" else pipeline.unet
    network.register_to_config(sample_size=size)
    adapter = {"dit": DiTPrior, "text": StableDiffusionPrior, "pixels": UNetPrior}[kind]
    with pytest.raises(OptionError, match=r"expected the sample_size of a square"):
        adapter(pipeline)


def test_lists_for_each_level_of_a_u_net_are_read():
    """The layers and widths of attention of a configuration may be a number, or a list with one for each level."""
    pipeline = tiny.stable_diffusion()
    expected = StableDiffusionPrior(pipeline)
    pipeline.unet.register_to_config(layers_per_block=[1, 1], cross_attention_dim=[16, 16])
    prior = StableDiffusionPrior(pipeline)
    assert (prior.image_bytes, prior.condition_shape) == (expected.image_bytes, expected.condition_shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, r"as many output as input channels.*9 and 4"),
        ({"addition_embed_type": "text_time"}, r"under text alone, this one has addition_embed_type"),
        ({"num_class_embeds": 4}, r"under text alone, this one has num_class_embeds"),
    ],
)
def test_u_nets_under_other_conditions_are_refused(changes, message):
    pipeline = tiny.stable_diffusion()
    pipeline.unet.register_to_config(**changes)
    with pytest.raises(OptionError, match=message):
        StableDiffusionPrior(pipeline)


def test_a_first_stage_of_another_kind_is_refused(tiny_pipeline):
    tiny_pipeline.vae.register_to_config(scaling_factor=None)
    with pytest.raises(
        OptionError, match=r"expected an AutoencoderKL, VQModel or AutoencoderDC as first stage.*no scaling_factor"
    ):
        DiTPrior(tiny_pipeline)


@pytest.mark.parametrize("template", ["a {}, {best quality}", "a {} }", "{ {}", "{0} {}"])
def test_other_braces_of_a_template_are_text(template):
    prior = StableDiffusionPrior(tiny.stable_diffusion(), template=template)
    plain = StableDiffusionPrior(tiny.stable_diffusion(), prompts={"cat": template.replace("{}", "cat")})
    assert prior.labels_of(["cat"]) == plain.labels_of(["cat"])


@pytest.mark.parametrize("names", [{"0": 3}, {"zero": "cat"}, ["cat"]])
def test_names_of_labels_of_wrong_types_are_refused(tiny_pipeline, names):
    tiny_pipeline.register_to_config(id2label=names)
    with pytest.raises(FormatError, match=r"id2label: .*expected"):
        DiTPrior(tiny_pipeline)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_first_stage_that_overflows_is_an_error(tiny_pipeline, part):
    prior = DiTPrior(tiny_pipeline)

    def use():
        images = torch.zeros((1, 1, 32, 32), dtype=torch.uint8)
        return prior.encode(images) if part == "encoder" else prior.decode(noise(prior))

    with torch.no_grad():
        getattr(tiny_pipeline.vae, part).conv_out.bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match=rf"{part} gives values that are not finite in torch.float32; check its w"):
        prior.encode(torch.zeros((1, 1, 32, 32), dtype=torch.uint8)) if part == "encoder" else prior.decode(
            noise(prior)
        )
    tiny_pipeline.vae.to(torch.bfloat16)
    with pytest.raises(
        DivergedError, match=r"not finite in torch.bfloat16; keep it in float32: leave vae_dtype out, or pipe"
    ):
        prior.encode(torch.zeros((1, 1, 32, 32), dtype=torch.uint8)) if part == "encoder" else prior.decode(
            noise(prior)
        )


def test_names_of_labels_that_the_network_lacks_are_refused(tiny_pipeline):
    tiny_pipeline.register_to_config(id2label={"0": "cat", "1000": "dog"})
    with pytest.raises(OptionError, match=r"id2label: expected labels from 0 to 999, got 1000"):
        DiTPrior(tiny_pipeline)


def test_pixels_that_are_not_finite_are_no_images():
    prior = UNetPrior(tiny.pixels())
    with pytest.raises(DivergedError, match=r"pixels that are not finite"):
        prior.decode(noise(prior) / 0)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_transformer_has_a_hash(make_pipeline):
    hashes = []
    for seed in (0, 0, 1):
        pipeline = make_pipeline(seed=seed)
        pipeline.transformer = torch.ao.quantization.quantize_dynamic(pipeline.transformer, {torch.nn.Linear})
        prior = DiTPrior(pipeline)
        hashes.append(prior.describe()["sha256"])
        assert torch.isfinite(prior.denoise(noise(prior), T, torch.tensor([1, 2])).eps).all()
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiled", ["wrapped", "in place"])
def test_a_compiled_transformer_gives_its_features(make_pipeline, compiled):
    plain, pipeline = DiTPrior(make_pipeline()), make_pipeline()
    if compiled == "wrapped":
        pipeline.transformer = torch.compile(pipeline.transformer, backend="eager")
    else:
        pipeline.transformer.compile(backend="eager")
    x, labels = noise(plain), torch.tensor([1, 2])
    with torch.no_grad():  # compiled before there is a hook
        pipeline.transformer(x, timestep=T.expand(2), class_labels=labels)
    prior = DiTPrior(pipeline)
    assert prior.describe()["sha256"] == plain.describe()["sha256"]
    ours, expected = (each.denoise(x, T, labels, taps=[2]) for each in (prior, plain))
    assert torch.equal(ours.eps, expected.eps) and torch.equal(ours.features[2], expected.features[2])


def test_two_threads_with_one_network_do_not_see_each_others_hooks(tiny_pipeline):
    """Priors that share a network, each with taps of its own."""
    priors = [DiTPrior(tiny_pipeline), DiTPrior(tiny_pipeline)]
    x, labels = noise(priors[0]), torch.tensor([1, 2])
    expected = [priors[0].denoise(x + number, T, labels, taps=[number + 1]).features for number in (0, 1)]

    def repeat(number):
        return [priors[number].denoise(x + number, T, labels, taps=[number + 1]).features for _ in range(40)]

    with ThreadPoolExecutor(2) as pool:
        for number, features in enumerate(pool.map(repeat, (0, 1))):
            for found in features:
                assert list(found) == [number + 1]
                assert torch.equal(found[number + 1], expected[number][number + 1])
