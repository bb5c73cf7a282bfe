"""What stands for a class inside a network: rows of embeddings, null conditioning, learned rows, words of a text."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import dap
from dap.data.classmap import NULL_LABELS, build_class_map, null_label
from dap.data.open import open_source
from dap.errors import FormatError, OptionError, SourceError
from dap.priors import load_prior
from dap.priors.dit import DiTPrior
from dap.priors.stable_diffusion import StableDiffusionPrior
from dap.priors.textual_inversion import concept_file, encode_concept, read_concepts
from dap.priors.unet import UNetPrior
from dap.sampling import denoising_loss

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

T = torch.tensor(400)
KINDS = {
    "dit": lambda make: DiTPrior(make()),
    "unet": lambda _: UNetPrior(tiny.pixels(classes=4)),
    "latent unet": lambda _: UNetPrior(tiny.latent(classes=4)),
    "text": lambda _: StableDiffusionPrior(tiny.stable_diffusion()),
    "text, v": lambda _: StableDiffusionPrior(tiny.stable_diffusion(v=True)),
}
CLASSES = ("cat", "oak tree", "lorry")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=KINDS)
def prior(request, make_pipeline):
    return KINDS[request.param](make_pipeline).for_classes(CLASSES)


def labels_of(prior, count=3):
    known = prior.labels_of(CLASSES)
    return torch.tensor(list(known.values())[:count])


def test_the_condition_of_a_label_does_what_the_label_does(prior):
    labels = labels_of(prior)
    rows = prior.condition(labels)
    assert rows.shape == (3, *prior.condition_shape) and rows.dtype == torch.float32
    x = drawn(3, *prior.latent_shape)
    by_label, by_row = (prior.denoise(x, T, labels, condition=own).eps for own in (None, rows))
    assert torch.equal(by_label, by_row)
    turned = prior.denoise(x, T, labels, condition=rows.flip(0)).eps
    assert torch.equal(turned, prior.denoise(x, T, labels.flip(0)).eps) and not torch.equal(turned, by_label)
    assert not any(module._forward_hooks for module in prior.denoiser.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind, make_pipeline):
    """Rows are given in float32 and taken in the network's dtype; the objective and its gradient stay in float32."""
    whole = KINDS[kind](make_pipeline)
    prior = type(whole)(whole.pipeline.to(torch.bfloat16)).for_classes(CLASSES)
    assert prior.dtype == torch.bfloat16
    labels = labels_of(prior)
    rows, x = prior.condition(labels).requires_grad_(), drawn(3, *prior.latent_shape)
    assert rows.dtype == torch.float32
    by_label, by_row = (prior.denoise(x, T, labels, condition=own).eps for own in (None, rows.detach()))
    assert torch.equal(by_label, by_row) and by_row.dtype == torch.float32
    loss = denoising_loss(prior, x, drawn(3, *prior.latent_shape, seed=1), T.expand(3), labels, condition=rows)
    (gradient,) = torch.autograd.grad(loss.sum(), rows)
    assert loss.dtype == gradient.dtype == torch.float32 and torch.isfinite(gradient).all() and gradient.abs().max() > 0


def exact_output(prior, x, rows):
    """ε of a float64 copy of the network, with these rows where it would look its labels up."""
    network, t = oracles.double(prior.denoiser), T.expand(len(x))
    if isinstance(prior, StableDiffusionPrior):
        output = network(x, t, encoder_hidden_states=rows).sample
    else:
        dit = isinstance(prior, DiTPrior)
        modules = (
            [each.norm1.emb.class_embedder for each in network.transformer_blocks] if dit else [network.class_embedding]
        )
        for place, module in enumerate(modules):
            module.register_forward_hook(lambda *_, place=place: rows[:, place])
        output = network(x, t, class_labels=torch.zeros(len(x), dtype=torch.int64)).sample
    if prior._predicts == "v_prediction":
        cumulative = prior.scheduler("ddpm", 1).alphas_cumprod.double()[T]
        output = cumulative.sqrt() * output + (1 - cumulative).sqrt() * x
    return output


def test_the_gradient_reaches_the_condition(prior):
    labels, x = labels_of(prior, 2), drawn(2, *prior.latent_shape)
    rows = prior.condition(labels)
    leaf, exact = rows.clone().requires_grad_(), rows.double().requires_grad_()
    ours = prior.denoise(x, T, labels, condition=leaf, through=True).eps
    theirs = exact_output(prior, x.double(), exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4)
    (found,), (expected,) = (
        torch.autograd.grad(own.square().sum(), to) for own, to in ((ours, leaf), (theirs, exact))
    )  # fmt: skip
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert expected.abs().max() > 1e-4


def test_the_objective_is_the_mean_squared_error_of_the_noise(prior):
    """x_t and ε_θ in float64, a t for each image; v-prediction by ε = α v + σ x."""
    labels, z, noise = labels_of(prior), drawn(3, *prior.latent_shape), drawn(3, *prior.latent_shape, seed=1)
    timesteps = torch.tensor([3, 400, 999])
    found = denoising_loss(prior, z, noise, timesteps, labels)
    cumulative = prior.scheduler("ddpm", 1).alphas_cumprod.double()[timesteps].view(-1, 1, 1, 1)
    noised = cumulative.sqrt() * z.double() + (1 - cumulative).sqrt() * noise.double()
    exact = oracles.double(prior.denoiser)
    with torch.no_grad():
        if isinstance(prior, StableDiffusionPrior):
            states = prior.condition(labels).double()
            output = exact(noised, timesteps, encoder_hidden_states=states).sample
        else:
            output = exact(noised, timesteps, class_labels=labels).sample
    if prior._predicts == "v_prediction":
        output = cumulative.sqrt() * output + (1 - cumulative).sqrt() * noised
    expected = (noise.double() - output).square().mean((1, 2, 3))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_unconditional_networks_have_no_condition():
    prior = UNetPrior(tiny.pixels())
    assert prior.condition_shape is None
    with pytest.raises(OptionError, match="has no class embeddings"):
        prior.condition(torch.tensor([1]))
    with pytest.raises(OptionError, match="so none can be learned"):
        UNetPrior(tiny.pixels(), learned={"cat": torch.zeros(1, 32)})


# --- null conditioning ------------------------------------------------------------------------------------------------


def test_a_class_without_a_label_is_asked_for_by_the_null_condition(make_pipeline):
    prior = DiTPrior(make_pipeline())
    label = null_label("anorak")
    assert NULL_LABELS <= label < 2**31 and label != null_label("cat")
    x = drawn(2, 4, 8, 8)
    mixed = prior.denoise(x, T, torch.tensor([label, 3]), guidance_scale=4.0).eps
    t, null = T.expand(2), torch.tensor([1000, 3])
    with torch.no_grad():
        plain = prior.denoiser(x, timestep=t, class_labels=null).sample
    torch.testing.assert_close(mixed[0], plain[0])  # guidance from the null condition to itself
    assert not torch.allclose(mixed[1], plain[1])
    text = StableDiffusionPrior(tiny.stable_diffusion(), negative_prompt="drawing").for_classes(["drawing", "anorak"])
    expected = text.condition(torch.tensor(list(text.labels_of(["drawing"]).values())))
    assert torch.equal(text.condition(torch.tensor([label]))[0], text._condition_of("drawing")[0])
    assert expected.shape == (1, *text.condition_shape)
    with pytest.raises(OptionError, match=f"knows no prompt for label {null_label('cat')}"):
        text.condition(torch.tensor([null_label("cat")]))


def test_runs_and_indexes_with_null_labels(make_pipeline, tmp_path):
    prior = DiTPrior(make_pipeline(names=("Dress", "Coat")))
    settings = {"prior": prior, "classes": ["Dress", "Bag", "Sandal"], "progress": False}
    free = {"Bag": None, "Sandal": None}
    run = {"ipc": 1, "num_inference_steps": 4, "method": "dap", "method_options": {"references": 3}}
    made = dap.distill("fashion-mini", out=tmp_path / "run", label_map=free, **run, **settings)
    labels = {entry["name"]: entry["prior_label"] for entry in made.manifest["class_map"]}
    assert labels == {"Dress": 0, "Bag": null_label("Bag"), "Sandal": null_label("Sandal")}
    images = made.to_torch()[0]
    assert not torch.equal(images[0], images[1])
    index = dap.build_index(
        "fashion-mini", out=tmp_path / "index", label_map=free, timesteps=2, num_inference_steps=4, max_per_class=4,
        **settings,
    )  # fmt: skip
    again = dap.distill(index=index, prior=prior, out=tmp_path / "of index", progress=False, **run)
    assert [entry["prior_label"] for entry in again.manifest["class_map"]] == list(labels.values())
    with pytest.raises(OptionError, match="class 'Bag' has no label, and DDPMPipeline object has no null condition"):
        names = UNetPrior(tiny.pixels(classes=2), class_names=("Dress", "Sandal"))
        dap.distill("fashion-mini", out=tmp_path / "none", method="dit", label_map={"Bag": None},
                    **settings | {"prior": names})  # fmt: skip
    assert not (tmp_path / "none").exists()


def test_the_command_line_takes_nothing_for_no_label(command_line, tiny_folder, tmp_path):
    code, _, error = command_line(
        "distill", "fashion-mini", "--prior", tiny_folder, "--classes", "Bag", "--label", "Bag=", "--method", "dit",
        "--ipc", 1, "--num-inference-steps", 2, "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, error
    assert dap.load(tmp_path / "run").manifest["class_map"][0]["prior_label"] == null_label("Bag")
    code, _, error = command_line("distill", "fashion-mini", "--label", "=Bag", "--out", tmp_path / "other")
    assert code == 2 and "--label: expected CLASS=LABEL, each class once, got '=Bag'" in error


def test_unknown_classes_are_told_what_can_be_done(make_pipeline):
    source = open_source("fashion-mini").subset(["Bag"])
    with pytest.raises(dap.errors.ClassMapError, match=r"no label is its null condition.*dap\.adapt_prior"):
        build_class_map(source, DiTPrior(make_pipeline(names=("cat",))).labels_of(["Bag"]))


# --- learned rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dit", "unet", "latent unet"])
def test_learned_classes_have_their_rows(kind, make_pipeline):
    base = KINDS[kind](make_pipeline)
    rows = {name: drawn(*base.condition_shape, seed=seed) for seed, name in enumerate(("anorak", "dog"))}
    prior = base.with_learned(rows, name="taught")
    known = prior.labels_of(["anorak"])
    first = 1001 if kind == "dit" else 4
    assert (known["anorak"], known["dog"], prior.name) == (first, first + 1, "taught")
    assert {name: label for name, label in known.items() if name not in rows} == dict(base.labels_of([]))
    x, labels = drawn(3, *prior.latent_shape), torch.tensor([known["dog"], 2, known["anorak"]])
    mixed = prior.denoise(x, T, labels, taps=[1])
    given = torch.stack([rows["dog"], base.condition(torch.tensor([2]))[0], rows["anorak"]])
    expected = base.denoise(x, T, torch.tensor([0, 0, 0]), condition=given, taps=[1])
    assert torch.equal(mixed.eps, expected.eps) and torch.equal(mixed.features[1], expected.features[1])
    assert torch.equal(prior.features(x, T, labels, 1), expected.features[1])
    assert prior.describe()["sha256"] != base.describe()["sha256"]
    with pytest.raises(OptionError, match="learned rows of 'cat': expected shape"):
        base.with_learned({"cat": torch.zeros(2, 2, 2)}, name="taught")


# --- words ------------------------------------------------------------------------------------------------------------


def with_token(pipeline, word, file):
    """The pipeline with a word added as diffusers does it."""
    pipeline.load_textual_inversion(str(file), token=word)
    return pipeline


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("template", ["a photo of a {}", "{} on a table, seen from above", "{}"])
def test_a_word_is_what_diffusers_makes_of_its_file(template, vectors, tmp_path):
    concept = drawn(vectors, 16, seed=5)
    name, data = concept_file("oak/tree", concept)
    assert name == "oak%2Ftree.safetensors"
    (tmp_path / name).write_bytes(data)
    assert load_file(tmp_path / name)["oak/tree"].shape == (vectors, 16)
    ours = encode_concept(tiny.stable_diffusion(), template, concept)
    theirs = with_token(tiny.stable_diffusion(), "<oak>", tmp_path / name)
    expected = theirs.encode_prompt(template.format("<oak>"), "cpu", 1, do_classifier_free_guidance=False)[0][0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, encode_concept(tiny.stable_diffusion(), template, concept + 0.1))


def test_words_of_a_folder_are_a_priors_classes(tmp_path):
    for number, word in enumerate(("cat", "oak/tree")):
        name, data = concept_file(word, drawn(2, 16, seed=number))
        (tmp_path / name).write_bytes(data)
    prior = StableDiffusionPrior(tiny.stable_diffusion(), concepts=tmp_path).for_classes(["cat"])
    assert set(prior.concepts) == {"cat", "oak/tree"}
    plain = StableDiffusionPrior(tiny.stable_diffusion())
    known = prior.labels_of(["cat", "lorry"])
    assert known["lorry"] == plain.labels_of(["lorry"])["lorry"] and known["cat"] != plain.labels_of(["cat"])["cat"]
    x = drawn(1, 4, 8, 8)
    ours = prior.denoise(x, T, torch.tensor([known["cat"]])).eps
    states = encode_concept(prior.pipeline, "a photo of a {}", prior.concepts["cat"])[None]
    assert torch.equal(ours, plain.denoise(x, T, torch.tensor([0]), condition=states).eps)
    assert prior.describe()["concepts"].keys() == {"cat", "oak/tree"} and "concepts" not in plain.describe()
    assert not any(module._forward_hooks for module in prior.pipeline.text_encoder.modules())


def test_words_that_cannot_be_read(tmp_path):
    with pytest.raises(SourceError, match=r"expected a folder with a \.safetensors file for each class"):
        read_concepts(tmp_path)
    (tmp_path / "cat.safetensors").write_bytes(b"no")
    with pytest.raises(FormatError, match=r"cat\.safetensors: expected one tensor"):
        read_concepts(tmp_path)
    save_file({"a": torch.zeros(2, 3, 4)}, tmp_path / "cat.safetensors")
    with pytest.raises(FormatError, match="expected floats"):
        read_concepts(tmp_path)
    with pytest.raises(OptionError, match=r"concept 'cat': expected shape \(V, 16\), got \(1, 5\)"):
        StableDiffusionPrior(tiny.stable_diffusion(), concepts={"cat": torch.zeros(1, 5)})
    with pytest.raises(OptionError, match="has 62 tokens with its concept, the text encoder reads 48"):
        encode_concept(tiny.stable_diffusion(), "{}", torch.zeros(60, 16))


def test_options_of_a_prior_by_name(tmp_path, command_line):
    tiny.stable_diffusion().save_pretrained(tmp_path / "sd")
    prior = load_prior(tmp_path / "sd", device="cpu", options={"template": "art of {}", "negative_prompt": "x"})
    assert prior.describe()["template"] == "art of {}"
    assert load_prior(tiny.stable_diffusion(), options={"template": "{}"}).describe()["template"] == "{}"
    with pytest.raises(OptionError, match="unknown option of a StableDiffusionPrior 'tenplate'; did you mean"):
        load_prior(tmp_path / "sd", options={"tenplate": "art of {}"})
    with pytest.raises(OptionError, match="prior options template: the prior is an object"):
        load_prior(prior, options={"template": "art of {}"})
    pictures = tmp_path / "pictures" / "cat"
    pictures.mkdir(parents=True)
    from PIL import Image

    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(pictures / "0.png")
    code, _, error = command_line(
        "distill", tmp_path / "pictures", "--prior", tmp_path / "sd", "--prior-set", 'prompts={"cat": "two cats"}',
        "--prior-set", "negative_prompt=fog", "--method", "dit", "--ipc", 1, "--num-inference-steps", 2,
        "--out", tmp_path / "run", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, error
    described = dap.load(tmp_path / "run").manifest["prior"]
    assert described["prompts"] == {"cat": "two cats"} and described["negative_prompt"] == "fog"
