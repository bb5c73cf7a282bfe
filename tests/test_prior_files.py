"""Which files a prior is read from: pickled, sharded, variants, sub-folders, the hub's; and the licence beside them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import tiny
import torch
from PIL import Image

import dap
from dap.errors import OptionError, SourceError
from dap.priors import hub, load_prior
from dap.priors.adapter import write_adapter
from dap.priors.stable_diffusion import StableDiffusionPrior


@pytest.fixture
def folder(tmp_path, make_pipeline):
    make_pipeline().save_pretrained(tmp_path / "prior")
    return tmp_path / "prior"


def same(folder, pipeline, **options):
    return load_prior(folder, options=options).describe()["sha256"] == load_prior(pipeline).describe()["sha256"]


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("kind", [tiny.stable_diffusion, tiny.latent, tiny.pixels])
def test_pickled_weights_are_read_when_asked_for(tmp_path, kind, variant):
    pipeline = kind()
    pipeline.save_pretrained(tmp_path / "bin", safe_serialization=False, variant=variant)
    with pytest.raises(SourceError, match=r"has pickled weights \(.bin\).* give the prior's option use_safetensors=f"):
        load_prior(tmp_path / "bin")
    assert same(tmp_path / "bin", pipeline, use_safetensors=False)
    assert same(tmp_path / "bin", pipeline, use_safetensors=False, variant=variant)


def test_pickled_weights_are_read_where_there_are_no_others(tmp_path):
    pipeline = tiny.stable_diffusion()
    pipeline.save_pretrained(tmp_path / "mixed")
    pipeline.unet.save_pretrained(tmp_path / "bin", safe_serialization=False)
    (tmp_path / "mixed/unet/diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "bin/diffusion_pytorch_model.bin").rename(tmp_path / "mixed/unet/diffusion_pytorch_model.bin")
    assert same(tmp_path / "mixed", pipeline, use_safetensors=False)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("safe", [True, False])
def test_sharded_weights_are_read(tmp_path, tiny_pipeline, safe, variant):
    tiny_pipeline.save_pretrained(tmp_path / "prior", max_shard_size="20KB", safe_serialization=safe, variant=variant)
    assert len(list(tmp_path.glob("prior/transformer/*-of-*"))) > 2
    assert same(tmp_path / "prior", tiny_pipeline, use_safetensors=safe)


@pytest.mark.parametrize("file", ["../../secret.safetensors", "/etc/passwd", "a/b.safetensors", 3])
def test_shards_are_files_beside_their_index(tmp_path, tiny_pipeline, file):
    tiny_pipeline.save_pretrained(tmp_path / "prior", max_shard_size="20KB")
    index = tmp_path / "prior/transformer/diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = dict.fromkeys(content["weight_map"], file)
    index.write_text(json.dumps(content))
    with pytest.raises(SourceError, match=r"index\.json: weight_map\..*expected"):
        load_prior(tmp_path / "prior")


def test_a_pipeline_in_a_sub_folder(tmp_path, tiny_pipeline):
    tiny_pipeline.save_pretrained(tmp_path / "repository/models/dit")
    with pytest.raises(SourceError, match=r"it has no model_index\.json"):
        load_prior(tmp_path / "repository")
    assert same(tmp_path / "repository", tiny_pipeline, subfolder="models/dit")
    with pytest.raises(SourceError, match=r"models.sit.: no pipeline's folder"):
        load_prior(tmp_path / "repository", options={"subfolder": "models/sit"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subfolder": ".."}, "subfolder: expected a folder below"), ({"subfolder": "/tmp"}, "subfolder: expected"),
        ({"subfolder": ""}, "subfolder: expected"), ({"use_safetensors": "no"}, "use_safetensors: expected true or f"),
        ({"variant": 16}, "variant: expected text"), ({"revision": 3}, "revision: expected a branch"),
        ({"token": 3}, "token: expected text, got '…'"), ({"revision": "main"}, "revision: .* is a folder; leave it"),
        ({"vae_dtype": "float8"}, "vae_dtype: expected one of float32"), ({"vea_dtype": "float32"}, "did you mean 'v"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_options_of_loading_are_refused(folder, options, message):
    with pytest.raises(OptionError, match=message):
        load_prior(folder, options=options)


def test_on_the_command_line(tmp_path, command_line, photographs, make_pipeline):
    pipeline = make_pipeline(image_channels=3, names=("cat", "oak tree"))
    pipeline.save_pretrained(tmp_path / "r/bin", safe_serialization=False, variant="fp16")
    run = ["distill", photographs, "--prior", tmp_path / "r", "--method", "dit", "--ipc", 1, "--out", tmp_path / "out"]
    run += ["--num-inference-steps", 2, "--prior-set", "subfolder=bin", "--device", "cpu"]
    code, _, error = command_line(*run)
    assert code and "has pickled weights" in error and error.count("\n") == 1
    assert command_line(*run, "--prior-set", "use_safetensors=false", "--prior-set", "variant=fp16")[0] == 0


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch, tmp_path, tiny_pipeline):
    """A hub with one model; lists what it is asked for."""
    tiny_pipeline.save_pretrained(tmp_path / "hub")
    tiny_pipeline.save_pretrained(tmp_path / "hub/below")
    calls = []

    def fetch(name, file, **options):
        if options.pop("local_files_only", False):
            raise hub.LocalEntryNotFoundError("not here")
        calls.append((name, file, options))
        return str(tmp_path / "hub" / file)

    def download(name, **options):
        calls.append((name, "pipeline", options))
        return str(tmp_path / "hub")

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda url, **options: calls.append((url, "head", options)))
    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    monkeypatch.setattr(hub, "snapshot_download", download)
    for kind in ("DiTPipeline", "StableDiffusionPipeline"):
        monkeypatch.setattr(f"diffusers.{kind}.download", download)
    return calls


@pytest.mark.parametrize("below", [None, "below"])
def test_token_and_revision_reach_the_hub_alone(asked, below):
    options = {"token": "hf_secret", "revision": "v2"} | ({} if below is None else {"subfolder": below})
    prior = load_prior("nobody/gated", options=options)
    assert any(file == "pipeline" for _, file, _ in asked)
    for name, file, given in asked:
        assert given["token"] == "hf_secret"
        assert "/v2/" in name if file == "head" else (name, given["revision"]) == ("nobody/gated", "v2")
    assert "hf_secret" not in str(prior.describe()) + repr(hub.Files("nobody/gated", **options))
    assert ("below/model_index.json" in {file for _, file, _ in asked}) == (below is not None)


def test_a_gated_model_says_what_to_do(asked, monkeypatch):
    class Gated(hub.GatedRepoError):
        def __init__(self):
            Exception.__init__(self, "403")

    def refuse(*_, **__):
        raise Gated

    monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
    with pytest.raises(SourceError, match=r"gated: accept its terms on https://huggingface.co/nobody/gated, then use"):
        load_prior("nobody/gated")


def test_the_safety_checker_is_not_downloaded(asked):
    """Nor is it run: images are decoded by the VAE alone."""
    hub.download(hub.Files("nobody/sd"), "StableDiffusionPipeline", StableDiffusionPrior.components)
    options = next(options for _, file, options in asked if file == "pipeline")
    assert options["safety_checker"] is options["feature_extractor"] is None


# --- licences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n# A", "mit"),
        ("---\r\ntags:\r\n- a\r\nlicense: 'cc-by-nc-4.0'\r\n---\r\n", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: my-own\n---\n", "my-own"),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\nlicense:\n- mit\n---\n", None),
        ("", None),
        (None, None),
    ],
)
def test_the_licence_of_a_prior_is_that_of_its_card(folder, card, expected):
    if card is not None:
        (folder / "README.md").write_bytes(card.encode())
    assert load_prior(folder).license == expected


def test_a_pipeline_object_has_no_licence_of_the_folder_around(tiny_pipeline, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.chdir(tmp_path)
    assert load_prior(tiny_pipeline).license is None


def test_an_adapter_has_the_licence_of_its_base(folder, tmp_path):
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    base = load_prior(folder)
    rows = base.condition(torch.tensor([3]))[0]
    (tmp_path / "adapted").mkdir()
    write_adapter(tmp_path / "adapted", str(folder), base.describe()["sha256"], {"cat": rows}, {}, 0)
    assert load_prior(tmp_path / "adapted").license == "mit"


def test_known_licences_are_in_the_manifest(tmp_path, photographs, make_pipeline):
    make_pipeline(image_channels=3, names=("cat", "oak tree")).save_pretrained(tmp_path / "prior")
    options = {"prior": tmp_path / "prior", "num_inference_steps": 2, "ipc": 1, "method": "dit", "progress": False}
    images = dap.open_source(photographs)
    assert "licenses" not in dap.distill(images, out=tmp_path / "a", **options).manifest
    (tmp_path / "prior/README.md").write_text("---\nlicense: mit\n---\n")
    licensed = dataclasses.replace(images, license="cc0-1.0")
    found = dap.distill(licensed, out=tmp_path / "b", **options).manifest["licenses"]
    assert found == {"prior": "mit", "source": "cc0-1.0"}
    dap.distill(licensed, out=tmp_path / "a", **options)  # a run without them is continued


def test_the_licence_of_a_hugging_face_dataset():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (8, 8))] * 2, "label": [0, 1]}, features=features)
    assert dap.open_source(rows).license is None
    rows.info.license = "mit"
    assert dap.open_source(rows).subset(["dog"]).license == "mit"
    assert dap.open_source("fashion-mini").license == "mit"
