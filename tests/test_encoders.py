"""Encoders: their numbers against independent computations, the cache, and what they refuse."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import timm
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

import dap
from dap.cli.group import in_flags
from dap.data.open import open_source
from dap.errors import OptionError
from dap.features import Encoder, Tap, default_block, real_features
from dap.features.encoders import PixelEncoder
from dap.metrics import Measures, coverage, diversity, measure, representativeness
from dap.priors import hub, load_prior
from dap.selection import herding
from dap.storage.cache import FEATURES, cache_folder

NAME = "test_vit"  # 0.4 million parameters, images of 160 pixels


@pytest.fixture
def source(photographs):
    return open_source(photographs)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))


def entries():
    return sorted((cache_folder() / FEATURES).iterdir())


def test_pixels_are_the_reduced_images_in_rgb(source):
    rows = Encoder("pixels", size=6).rows(source, [7, 0])
    assert rows.dtype == np.float32 and rows.shape == (2, 108)
    np.testing.assert_array_equal(rows * 255, source.images([7, 0], size=6, channels=3).reshape(2, -1))
    assert Encoder("pixels") == PixelEncoder(32)


def test_latents_are_those_of_the_vae_alone(source, tiny_folder):
    prior = load_prior(tiny_folder)
    rows = Encoder("vae", prior=str(tiny_folder)).rows(source)
    images = torch.from_numpy(source.images(range(len(source)), size=32, channels=1))
    np.testing.assert_allclose(rows, prior.encode(images).flatten(1).numpy(), atol=1e-5)


def test_the_priors_features_are_those_of_its_block(source, tiny_folder):
    prior = load_prior(tiny_folder)
    images = torch.from_numpy(source.images(range(len(source)), size=32, channels=1))
    for options in ({}, {"block": 2, "timestep": 700, "seed": 5}):
        rows = Encoder("prior", prior=prior, **options).rows(source, label=3)
        expected = real_features(
            prior, images, source.ids, label=3, tap=Tap(options.get("block") or default_block(prior)),
            timestep=options.get("timestep", 100), seed=options.get("seed", 0),
        )  # fmt: skip
        np.testing.assert_array_equal(rows, expected.numpy())


def test_models_of_timm_have_their_own_transform_and_weights(source, tmp_path):
    torch.manual_seed(11)
    network = timm.create_model(NAME, num_classes=0).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    transform = create_transform(**resolve_data_config({}, model=network))
    pictures = [Image.open(f"{source.name}/{name}") for name in source.ids]
    with torch.no_grad():
        expected = network(torch.stack([transform(picture) for picture in pictures])).numpy()
    encoder = Encoder(NAME, weights=tmp_path / "model.safetensors", device="cpu")
    np.testing.assert_allclose(encoder.rows(source), expected, rtol=1e-4, atol=1e-5)
    again = pickle.loads(pickle.dumps(encoder))
    assert again == encoder and len(pickle.dumps(encoder)) < 1000, "the name travels, not the weights"
    assert Encoder(f"timm/{NAME}", weights=tmp_path / "model.safetensors", device="cpu") == encoder
    assert again.describe() == encoder.describe()


def test_random_weights_are_the_same_each_time_and_leave_the_global_generator(source):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    rows = Encoder(NAME, pretrained=False, size=32).rows(source, [0, 9], cached=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    again = Encoder(NAME, pretrained=False, size=32).rows(source, [0, 9], cached=False)
    np.testing.assert_array_equal(rows, again)
    assert np.abs(rows - Encoder(NAME, pretrained=False).rows(source, [0, 9], cached=False)).max() > 1e-3


def test_rows_are_read_from_the_cache_and_made_again_if_it_is_damaged(source, monkeypatch):
    rows = Encoder("pixels").rows(source)
    (entry,) = entries()
    with monkeypatch.context() as patch:
        patch.setattr(PixelEncoder, "encode", None)
        np.testing.assert_array_equal(Encoder("pixels").rows(source), rows)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    np.testing.assert_array_equal(Encoder("pixels").rows(source), rows)
    assert entry.read_bytes() == whole


def test_entries_differ_by_all_that_changes_numbers(source, tiny_folder):
    prior = load_prior(tiny_folder)
    requests = [
        (Encoder("pixels"), {}), (Encoder("pixels", size=8), {}), (Encoder("pixels"), {"indices": [1, 0]}),
        (Encoder("vae", prior=prior), {}), (Encoder("prior", prior=prior), {"label": 1}),
        (Encoder("prior", prior=prior), {"label": 2}), (Encoder("prior", prior=prior, seed=1), {"label": 1}),
        (Encoder("prior", prior=prior, block=2), {"label": 1}), (Encoder(NAME, pretrained=False, size=32), {}),
        (Encoder(NAME, pretrained=False, size=48), {}),
    ]  # fmt: skip
    for count, (encoder, options) in enumerate(requests, 1):
        encoder.rows(source, **options)
        assert len(entries()) == count
    Encoder("pixels").rows(open_source(source.name, classes=["cat"]))
    assert len(entries()) == len(requests) + 1


@dataclass(frozen=True)
class Brightness(Encoder):
    """The mean of each image, or whatever a test wants to be refused."""

    name: ClassVar[str] = "brightness"
    shape: tuple[int, ...] = (-1, 1)
    factor: float = 1.0

    def describe(self):
        return {"name": self.name, "factor": self.factor, "shape": list(self.shape)}

    def encode(self, source, indices, *, label=0):
        means = [float(source.pixels(index).mean()) * self.factor for index in indices]
        return torch.tensor(means).reshape(self.shape)


def test_an_encoder_of_ones_own(source):
    assert Brightness().rows(source).shape == (10, 1)
    assert dap.seams.missing_parts(Brightness) == []
    for wrong, said in (
        (Brightness((-1,)), r"expected float32 features of shape \(10, D\), got torch.float32 \(10,\)"),
        (Brightness((1, -1)), r"got torch.float32 \(1, 10\)"),
        (Brightness(factor=float("nan")), "not finite"),
    ):
        with pytest.raises(OptionError, match=said):
            wrong.rows(source)
    assert len(entries()) == 1


def test_a_subclass_that_lacks_a_part_is_refused():
    class Unfinished(Encoder):
        def describe(self):
            return {}

    with pytest.raises(OptionError, match="encoder Unfinished lacks name, encode"):
        Unfinished()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("pixel", {}, "unknown 'pixel'; did you mean 'pixels'"),
        ("vit_small_patch14_dino2", {}, "did you mean 'vit_small_patch14_dinov2"),
        ("pixels", {"sise": 3}, "option of features 'pixels' 'sise'; did you mean 'size'"),
        ("pixels", {"size": 0}, "size: expected a whole number"),
        ("vae", {}, r"features 'vae': expected the prior .*prior="),
        ("pixels", {"prior": "fashion-dit"}, "they need no prior"),
        (NAME, {"weights": "model.bin"}, "weights: expected a .safetensors file, got 'model.bin'"),
        (NAME, {"pretrained": "no"}, "pretrained takes bool"),
        (3, {}, "features: expected pixels, vae, prior"),
    ],
)
def test_what_is_refused(name, options, said):
    with pytest.raises(OptionError, match=said):
        Encoder(name, **options)


def test_errors_of_timm_say_what_works_without_a_network(source, tmp_path, monkeypatch):
    save_file({"head": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(OptionError, match=f"timm cannot make '{NAME}' .RuntimeError: Error"):
        Encoder(NAME, weights=tmp_path / "other.safetensors").rows(source)

    def unreachable(*_arguments, **_options):
        raise ConnectionError("no route to huggingface.co\nmore")

    asked = []
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda url, **_: asked.append(url) or unreachable())
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm would try ten times"))
    with pytest.raises(OptionError, match=r"no route to huggingface\.co") as caught:
        Encoder(NAME).rows(source)
    assert [url.partition("/resolve")[0] for url in asked] == [
        f"https://huggingface.co/timm/{timm.get_pretrained_cfg(NAME).hf_hub_id.removeprefix('timm/')}"
    ]
    said = in_flags(str(caught.value))
    assert "--features-set weights=model.safetensors" in said and "--features-set pretrained=false" in said
    with pytest.raises(OptionError, match=r"no route to huggingface\.co") as caught:
        dap.open_teacher(f"timm/{NAME}")
    assert len(asked) == 2 and "--teacher-set weights=model.safetensors" in in_flags(str(caught.value))


def test_metrics_take_an_encoder(source):
    encoder, few = Encoder("pixels", size=4), source.select([0, 1, 5, 6, 7])
    expected = []
    for label in range(2):
        made, real = (encoder.rows(images, images.of_class(label)) for images in (few, source))
        expected.append([representativeness(made, real), diversity(made), coverage(made, real, 4)])
    assert measure(few, source, encoder) == Measures(*np.mean(expected, axis=0).tolist())


def test_the_priors_features_are_those_of_the_class_wherever_an_encoder_is_taken(source, tmp_path):
    text = Encoder("prior", prior=tiny.stable_diffusion())
    known = text.prior.for_classes(source.class_names)
    labels = known.labels_of(source.class_names)
    members = [source.of_class(number) for number in range(2)]
    rows = [
        Encoder("prior", prior=known).rows(source, indices, label=labels[name])
        for name, indices in zip(source.class_names, members, strict=True)
    ]
    few = source.select([0, 1, 5, 6, 7])
    expected = [diversity(rows[0][:2]), diversity(rows[1][:3])]
    result = dap.measure(few, source, features=text, only=["diversity"])
    assert list(result["diversity"].per_class.values()) == pytest.approx(expected, rel=1e-4)
    assert measure(few, source, text).diversity == pytest.approx(np.mean(expected), rel=1e-4)
    chosen = [
        int(one) for indices, found in zip(members, rows, strict=True) for one in indices[herding(found, 2).indices]
    ]
    assert dap.Selector("herding", 2, features=text).fit(source).indices_.tolist() == chosen
    made = dap.distill(source, method="herding", features=text, ipc=2, out=tmp_path / "out", progress=False)
    recorded = made.manifest["record"]["images"]
    assert [name for names in recorded.values() for name in names] == [source.ids[index] for index in chosen]


def test_classes_that_the_prior_of_an_encoder_does_not_know_are_refused_before_a_run(source, tiny_folder, tmp_path):
    features = Encoder("prior", prior=str(tiny_folder))
    with pytest.raises(OptionError, match=r"features 'prior': prior .* does not know a class of"):
        dap.distill(source, method="herding", features=features, ipc=1, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
