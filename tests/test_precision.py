"""The dtype of computing: by name, in the manifest and in indexes; the hash of a prior does not depend on it."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

import dap
from dap.errors import OptionError
from dap.features.index_options import computed_by
from dap.index import merge, open_index
from dap.priors import load_prior
from dap.priors.adapter import write_adapter

HALF = ("bfloat16", "float16")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path_factory.mktemp("cache") / "dap"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_pipeline):
    """A prior for RGB images of cats and oak trees."""
    made = tmp_path_factory.mktemp("prior") / "prior"
    make_pipeline(image_channels=3, names=("cat", "oak tree")).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, tiny_folder):
    made, base = tmp_path_factory.mktemp("adapted"), load_prior(tiny_folder)
    rows = base.condition(torch.tensor([3]))[0] + 0.1
    write_adapter(made, str(tiny_folder), base.describe()["sha256"], {"cat": rows}, {}, 0)
    return made


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", ["folder", "adapted"])
def test_the_hash_of_a_prior_is_that_of_its_files(kind, dtype, request):
    name = request.getfixturevalue(kind)
    full, half = load_prior(name), load_prior(name, dtype=dtype)
    assert half.describe()["sha256"] == full.describe()["sha256"]
    assert half.dtype == half.denoiser.dtype == getattr(torch, dtype)
    assert half.vae_dtype == half.pipeline.vae.dtype == torch.float32
    assert half.pass_bytes == full.pass_bytes // 2
    coarse = load_prior(name, dtype=dtype, options={"vae_dtype": "bfloat16"})
    assert coarse.describe()["sha256"] == full.describe()["sha256"]
    assert coarse.vae_dtype == coarse.pipeline.vae.dtype == torch.bfloat16


def test_half_precision_is_said_to_be_slow_where_it_is_emulated(folder, caplog, capfd, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    load_prior(folder, dtype="bfloat16")
    assert caplog.messages == [] and capfd.readouterr() == ("", "")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    load_prior(folder, dtype="bfloat16")
    (said,) = caplog.messages
    assert "this CPU has no instructions for bfloat16, which takes several times as long as float32" in said
    load_prior(folder, options={"vae_dtype": "bfloat16"})
    load_prior(folder)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("dtype", HALF)
def test_text_priors_too(tmp_path, dtype):
    tiny.stable_diffusion().save_pretrained(tmp_path / "sd")
    full, half = load_prior(tmp_path / "sd"), load_prior(tmp_path / "sd", dtype=dtype)
    assert half.describe()["sha256"] == full.describe()["sha256"]
    assert half.pipeline.text_encoder.dtype == half.dtype == getattr(torch, dtype)
    assert half.with_concepts({"cat": torch.zeros(1, 16)}).describe()["sha256"] == full.describe()["sha256"]
    assert half.pipeline.vae.dtype == torch.float32


def test_an_index_of_one_dtype_fits_a_run_of_another(folder, photographs, tmp_path, command_line):
    common = ["--prior", folder, "--num-inference-steps", 4, "--device", "cpu"]
    build = ["index", "build", photographs, *common, "--timesteps", "750,0", "--out"]
    assert command_line(*build, tmp_path / "half", "--dtype", "bfloat16")[0] == 0
    assert command_line(*build, tmp_path / "full", "--storage-dtype", "float32")[0] == 0
    half, full = open_index(tmp_path / "half"), open_index(tmp_path / "full")
    assert (half.spec.computed_in, half.spec.dtype, half.spec.prior) == ("bfloat16", "float16", full.spec.prior)
    assert (full.spec.computed_in, full.spec.dtype) == ("float32", "float32")
    assert "computed_in" not in json.loads((tmp_path / "full/index.json").read_text())
    assert (half.features("cat", 0) != full.features("cat", 0).astype("float16")).any()
    run = ["distill", *common, "--method", "dap", "--ipc", 1]
    assert command_line(*run, "--index", tmp_path / "half", "--out", tmp_path / "a")[0] == 0
    assert command_line(*run, "--index", tmp_path / "full", "--out", tmp_path / "b", "--dtype", "bfloat16")[0] == 0
    first, second = (json.loads((tmp_path / name / "dap.json").read_text()) for name in "ab")
    assert (first["options"]["dtype"], first["index"]["computed_in"]) == ("torch.float32", "bfloat16")
    assert "vae_dtype" not in first["options"] and first["prior"] == second["prior"]
    assert (second["options"]["dtype"], second["options"]["vae_dtype"]) == ("torch.bfloat16", "torch.float32")
    assert command_line("index", "info", tmp_path / "half")[1].count("bfloat16") == 1


def test_parts_of_two_dtypes_are_not_joined(folder, photographs, tmp_path):
    def part(number, dtype):
        return dap.build_index(
            photographs, prior=folder, out=tmp_path / str(number), num_inference_steps=4, shard=f"{number}/2",
            dtype=dtype, progress=False,
        )  # fmt: skip

    with pytest.raises(OptionError, match=r"different builds \(computed_in: None and 'bfloat16'\)"):
        merge([part(1, "float32"), part(2, "bfloat16")], tmp_path / "whole")


def test_caches_tell_the_dtypes_apart(folder):
    keys = [
        computed_by(load_prior(folder, dtype=dtype, options={"vae_dtype": vae}))
        for dtype in ("float32", "bfloat16")
        for vae in ("float32", "bfloat16")
    ]
    assert len({tuple(key) for key in keys}) == 4 and len(keys[0]) == 4


@pytest.mark.parametrize("command", [["distill"], ["index", "build"], ["prior", "train"], ["prior", "adapt"]], ids=str)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dtype", "float8"], "unknown dtype 'float8'"),
        (["--dtype", "bf16"], "unknown dtype 'bf16'; did you mean 'bfloat16'"),
        (["--device", "mps"], "device=mps: torch cannot use it here"),
    ],
    ids=str,
)
def test_wrong_dtypes_and_devices_are_one_line(command_line, photographs, tmp_path, command, options, said):
    code, out, error = command_line(*command, photographs, "--out", tmp_path / "out", *options)
    assert code and not out and error.startswith(f"dap: error: {said}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("train", [dap.train_prior, dap.adapt_prior])
def test_nothing_is_trained_in_float16(train, photographs, tmp_path):
    with pytest.raises(OptionError, match=r"dtype: expected one of float32, bfloat16, got 'float16'"):
        train(photographs, out=tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_an_adapter_learns_in_float32_over_half_precision(make_pipeline, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("dap.training.adapt._samples", lambda *_: torch.zeros(64, 4, 8, 8))
    make_pipeline(image_channels=3).save_pretrained(tmp_path / "base")

    def learned(out, dtype):
        prior = dap.adapt_prior(
            photographs, out=tmp_path / out, prior=tmp_path / "base", rank=2, steps=2, dtype=dtype, progress=False
        )
        return prior, (tmp_path / out / "adapter.safetensors").read_bytes()

    (full, exact), (half, rounded) = learned("full", "float32"), learned("half", "bfloat16")
    assert full.dtype == torch.float32 and half.dtype == torch.bfloat16 and exact != rounded
    assert "dtype" not in json.loads((tmp_path / "full/training.json").read_text())
    assert json.loads((tmp_path / "half/training.json").read_text())["dtype"] == "torch.bfloat16"
    assert load_prior(tmp_path / "half").dtype == torch.float32
