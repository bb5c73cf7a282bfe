"""Folders of pipelines as strangers write them: code, pipes, wrong types, variants, names that do not exist."""

from __future__ import annotations

import json
import logging
import os
import time

import pytest
import tiny
import torch
from diffusers.utils import logging as diffusers_logging

from dap.errors import DapError, FormatError, OptionError, SourceError
from dap.priors import hub, load_prior
from dap.sampling import SamplingSettings


@pytest.fixture
def folder(tmp_path, make_pipeline):
    make_pipeline().save_pretrained(tmp_path / "prior")
    return tmp_path / "prior"


def change_index(folder, **entries):
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"scheduler": ["mine", "Mine"]}, "scheduler: expected the library and class of a part"),
        ({"vae": ["os", "system"]}, "vae: expected the library and class"),
        ({"extra": ["diffusers.utils.testing_utils", "X"]}, "extra: expected the library and class"),
        ({"scheduler": ["diffusers", 3]}, "scheduler: expected the library and class"),
        ({"_class_name": ["mine", "Mine"]}, "_class_name: expected"),
        ({"_class_name": 3}, "_class_name: expected text"),
        ({"id2label": {"0": 3}}, "id2label.0: expected text"),
        ({"id2label": {"zero": "cat"}}, "id2label.*expected the number of a label"),
        ({"id2label": ["cat", "dog"]}, "id2label: expected"),
    ],
)
def test_what_is_no_plain_pipeline_is_refused_before_diffusers_reads_it(folder, monkeypatch, entries, message):
    change_index(folder, **entries)
    monkeypatch.setattr("diffusers.DiTPipeline.from_pretrained", lambda *_, **__: pytest.fail("diffusers was asked"))
    with pytest.raises(SourceError, match=message):
        load_prior(folder)


@pytest.mark.parametrize("name", ["mine.py", "scheduler/mine.py", "vae/mine.so"])
def test_a_folder_with_code_is_refused(folder, name):
    marker = folder.parent / "ran"
    (folder / name).write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(SourceError, match=rf"holds code \({name}\), which dap does not run"):
        load_prior(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json", "dap_prior.json"])
def test_a_pipe_in_a_folder_is_not_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(SourceError, match=r"a pipe"):
        load_prior(folder)


@pytest.mark.parametrize("content", ["{", "[1]", "3", '"text"', '{"a":' * 10000])
def test_a_damaged_index_of_a_folder_is_named(folder, content):
    (folder / "model_index.json").write_text(content)
    with pytest.raises(SourceError, match=r"model_index\.json: expected"):
        load_prior(folder)


@pytest.mark.parametrize(
    "content",
    ["[1]", '{"guidance_scale": "4"}', '{"num_inference_steps": 2.5}', '{"num_inference_steps": true}',
     '{"block": []}', '{"scheduler": {}}', '{"eta": null}', '{"guidance_scale": NaN}'],
)  # fmt: skip
def test_recommended_settings_of_wrong_types_are_refused(folder, content):
    (folder / "dap_prior.json").write_text(content)
    with pytest.raises(SourceError, match=r"dap_prior\.json: .*expected"):
        load_prior(folder)


def test_a_scheduler_is_a_name():
    with pytest.raises(OptionError, match=r"scheduler: expected a name or None, got \['ddim'\]"):
        SamplingSettings(scheduler=["ddim"])


@pytest.mark.parametrize(("options", "plain"), [({}, False), ({"variant": "fp16"}, False), ({"variant": "fp16"}, True)])
def test_a_variant_of_the_weights_is_read(tmp_path, tiny_pipeline, options, plain):
    """By itself if the folder has no plain weights, and by the option."""
    tiny_pipeline.save_pretrained(tmp_path / "prior", variant="fp16")
    expected = load_prior(tiny_pipeline).describe()["sha256"]
    if plain:
        for file in ("transformer", "vae"):
            weights = tmp_path / "prior" / file / "diffusion_pytorch_model.safetensors"
            weights.write_bytes(b"these are not read")
    assert load_prior(tmp_path / "prior", options=options).describe()["sha256"] == expected
    with pytest.raises(OptionError, match=r"unknown option of a DiTPrior 'variant'"):
        load_prior(tiny_pipeline, options={"variant": "fp16"})


@pytest.mark.parametrize("name", ["fashion-dti", "./no/such/folder", "/no/such", "a/b/c", "x" * 5000, "https://x.y/z"])
def test_a_name_that_is_no_hub_id_does_not_ask_the_hub(monkeypatch, name):
    for function in ("hf_hub_download", "get_hf_file_metadata"):
        monkeypatch.setattr(hub, function, lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(SourceError, match=r"expected 'fashion-dit', the folder of a pipeline or a hub id"):
        load_prior(name)


def test_a_misspelt_folder_beside_others_does_not_ask_the_hub(tmp_path, monkeypatch):
    (tmp_path / "priors").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(SourceError, match=r"there is no folder .*priors.my-dit"):
        load_prior("priors/my-dit")


def test_an_unreachable_hub_is_asked_once(monkeypatch, caplog):
    asked = []

    def unreachable(url, **_):
        asked.append(url)
        raise RuntimeError("no route")

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_hf_file_metadata", unreachable)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"no folder .*nobody/such-a-prior, and no reachable model .*\(no route\)"):
        load_prior("nobody/such-a-prior")
    assert len(asked) == 1 and time.monotonic() - began < 5 and not caplog.records


def test_loading_shows_no_bar_and_no_warning(folder, capfd):
    assert diffusers_logging.is_progress_bar_enabled()
    before = [list(logging.getLogger(f"diffusers.{name}").filters) for name in ("configuration_utils",)]
    load_prior(folder)
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
    assert diffusers_logging.is_progress_bar_enabled()
    assert [list(logging.getLogger(f"diffusers.{name}").filters) for name in ("configuration_utils",)] == before


@pytest.mark.parametrize("dtype", ["float16", "torch.float16", "half", torch.float16])
def test_a_dtype_may_be_text(folder, dtype):
    assert load_prior(folder, dtype=dtype).dtype == torch.float16


@pytest.mark.parametrize("dtype", ["fp16", "int8", torch.int64, "nn", 16])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(OptionError, match=r"dtype: expected one of float32, float16, bfloat16, float64, got"):
        load_prior("/is/not/looked/for", dtype=dtype)


@pytest.mark.parametrize("device", ["mps", "meta", "xla", "gpu", "cuda:99", 2.5])
def test_devices_that_are_not_here_are_refused(device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is here")
    with pytest.raises(OptionError, match=r"^device.*$"):
        load_prior("fashion-dit", device=device)


RECORD = {"prior": "fashion-dit", "sha256": "0" * 64, "classes": ["cat"], "rank": 0}


@pytest.mark.parametrize(
    "changes",
    [{"prior": 3}, {"sha256": None}, {"classes": "cat"}, {"classes": [1]}, {"rank": -1}, {"rank": "8"}, {"rank": 1e9}],
)
def test_an_adapter_of_wrong_types_is_refused(tmp_path, changes):
    (tmp_path / "dap_adapter.json").write_text(json.dumps(RECORD | changes))
    with pytest.raises(FormatError, match=r"dap_adapter\.json: .*expected"):
        load_prior(tmp_path)


def test_an_adapter_that_is_its_own_base_is_refused(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, base in ((one, two), (two, one)):
        folder.mkdir()
        (folder / "dap_adapter.json").write_text(json.dumps(RECORD | {"prior": str(base)}))
    with pytest.raises(FormatError, match=r"names an adapter as prior that is based on this one"):
        load_prior(one)


@pytest.mark.parametrize("name", ["dap_adapter.json", "adapter.safetensors"])
def test_a_pipe_in_an_adapter_is_not_waited_for(tmp_path, name):
    (tmp_path / "dap_adapter.json").write_text(json.dumps(RECORD))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(DapError):
        load_prior(tmp_path)


def test_text_priors_load_from_a_variant_too(tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "prior", variant="fp16")
    assert load_prior(tmp_path / "prior").latent_shape == (4, 8, 8)
