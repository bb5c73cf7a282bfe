"""DiffFit: its scales and biases against the released network in float64, merging, adapters and their refusals."""

from __future__ import annotations

import copy
import json

import pytest
import tiny
import torch
from conftest import build_pipeline
from safetensors.torch import load_file, save_file

from dap import rng
from dap.errors import FormatError, OptionError
from dap.priors import load_prior
from dap.priors.adapter import adapter_files
from dap.priors.diff_fit import DiffFit, merged, merged_bytes
from dap.priors.dit import DiTPrior


def released_forward(network, scales, x, timestep, labels):
    """The network of Minimax Diffusion, written out: qkv, projection and both branches of a block have scales."""
    hidden = network.pos_embed(x)
    for number, block in enumerate(network.transformer_blocks):

        def scale(name, number=number):
            return scales.get(f"transformer_blocks.{number}.{name}", 1.0)

        embedded = block.norm1.emb(timestep, labels, hidden_dtype=hidden.dtype)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = block.norm1.linear(
            torch.nn.functional.silu(embedded)
        ).chunk(6, dim=1)
        normal = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=1e-6)
        given = normal * (1 + scale_a[:, None]) + shift_a[:, None]
        q, k, v = (
            scale(f"attn1.to_{name}.scale") * getattr(block.attn1, f"to_{name}")(given) for name in ("q", "k", "v")
        )
        heads = block.attn1.heads
        split = [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v)]
        weights = torch.softmax(split[0] @ split[1].transpose(2, 3) / split[0].shape[-1] ** 0.5, dim=-1)
        mixed = (weights @ split[2]).transpose(1, 2).flatten(2)
        attention = scale("attn1.to_out.0.scale") * block.attn1.to_out[0](mixed)
        hidden = hidden + scale("attn1.to_out.0.branch_scale") * gate_a[:, None] * attention
        normal = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=1e-6)
        inner = block.ff.net[0](normal * (1 + scale_f[:, None]) + shift_f[:, None])
        hidden = hidden + scale("ff.net.2.scale") * gate_f[:, None] * block.ff.net[2](inner)
    conditioning = network.transformer_blocks[0].norm1.emb(timestep, labels, hidden_dtype=hidden.dtype)
    shift, scale_out = network.proj_out_1(torch.nn.functional.silu(conditioning)).chunk(2, dim=1)
    normal = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=1e-6)
    patches = network.proj_out_2(normal * (1 + scale_out[:, None]) + shift[:, None])
    side, patch = int(patches.shape[1] ** 0.5), network.config.patch_size
    grid = patches.reshape(len(x), side, side, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", grid).reshape(len(x), -1, side * patch, side * patch)


def moved(fit, seed=0):
    """Move everything that is trained, and return the values."""
    draw = rng.generator(seed)
    with torch.no_grad():
        for parameter in fit.parameters.values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return {name: parameter.detach().clone() for name, parameter in fit.parameters.items()}


def tied(pipeline):
    """Make the embeddings of all blocks equal, as in a network that was converted."""
    blocks = pipeline.transformer.transformer_blocks
    for block in blocks[1:]:
        block.norm1.emb.load_state_dict(blocks[0].norm1.emb.state_dict())
    return pipeline


def inputs():
    x = torch.randn((3, 4, 8, 8), generator=rng.generator(7))
    return {"hidden_states": x, "timestep": torch.tensor([10, 500, 999]), "class_labels": torch.tensor([0, 3, 1000])}


@pytest.mark.parametrize("one", [False, True])
def test_scales_act_where_the_released_network_has_them(one):
    pipeline = tied(build_pipeline(out_channels=8)) if one else build_pipeline(out_channels=8)
    network = pipeline.transformer.eval()  # in training its labels are dropped
    before = copy.deepcopy(network.state_dict())
    fit, given = DiffFit(network), inputs()
    torch.testing.assert_close(fit.network(**given).sample, network(**given).sample, rtol=0, atol=1e-5)  # scales of 1
    values = moved(fit)
    changed = copy.deepcopy(network)
    for name, value in values.items():
        places = [name]
        if one and ".norm1.emb." in name:
            places = [name.replace("blocks.0.", f"blocks.{number}.") for number in range(3)]
        for place in places if "scale" not in name else []:
            changed.get_parameter(place).data.copy_(value)
    scales = {name: value.double() for name, value in values.items() if "scale" in name}
    given64 = [given["hidden_states"].double(), given["timestep"], given["class_labels"]]
    with torch.no_grad():
        expected = released_forward(changed.double(), scales, *given64)
        for found in (fit.network(**given).sample, merged(network, values)(**given).sample):
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
            assert (found - network(**given).sample).abs().max() > 0.1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_is_trained_is_what_the_released_code_marks():
    """Biases, label table and scales: no weight of a layer, and scales in the first half of the blocks alone."""
    names = set(DiffFit(tied(build_pipeline()).transformer).parameters)
    for name in names:
        assert name.endswith((".bias", "scale", "embedding_table.weight"))
    scales = {name for name in names if name.endswith("scale")}
    assert scales == {
        f"transformer_blocks.0.{name}"
        for name in (
            "attn1.to_q.scale", "attn1.to_k.scale", "attn1.to_v.scale", "attn1.to_out.0.scale",
            "attn1.to_out.0.branch_scale", "ff.net.2.scale",
        )
    }  # fmt: skip
    assert {name for name in names if ".norm1.emb." in name} == {
        f"transformer_blocks.0.norm1.emb.{name}"
        for name in (
            "class_embedder.embedding_table.weight", "timestep_embedder.linear_1.bias",
            "timestep_embedder.linear_2.bias",
        )
    }  # fmt: skip
    apart = set(DiffFit(build_pipeline().transformer).parameters)
    assert len(apart) == len(names) + 2 * 3


def test_copies_share_what_is_not_changed(tiny_pipeline):
    network = tiny_pipeline.transformer
    values = {name: value.detach() for name, value in DiffFit(network).parameters.items()}
    copied = merged(network, values)
    own = [
        name for name, value in copied.named_parameters() if value.data_ptr() != network.get_parameter(name).data_ptr()
    ]
    assert all(name.endswith((".bias", "embedding_table.weight")) or "blocks.0." in name for name in own)
    assert sum(copied.get_parameter(name).numel() for name in own) * 4 == merged_bytes(DiTPrior(tiny_pipeline))
    assert all(torch.equal(value, network.get_parameter(name)) for name, value in copied.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_give_the_merged_network(dtype, tiny_folder, tmp_path):
    base = load_prior(tiny_folder)
    values = moved(DiffFit(base.denoiser), seed=1)
    write(tmp_path / "adapted", adapter_files(str(tiny_folder), base.describe()["sha256"], diff_fit=values))
    prior, again = (load_prior(tmp_path / "adapted", dtype=dtype) for _ in range(2))
    expected = merged(base.denoiser, values).to(dtype)
    for name, value in prior.denoiser.named_parameters():
        assert torch.equal(value, expected.get_parameter(name)), name
    assert prior.dtype == dtype and prior.labels == base.labels
    assert prior.describe()["sha256"] == again.describe()["sha256"] != base.describe()["sha256"]


def test_adapters_that_do_not_fit_are_refused(tiny_folder, tmp_path):
    base = load_prior(tiny_folder)
    values = moved(DiffFit(base.denoiser), seed=1)
    folder = write(tmp_path / "adapted", adapter_files(str(tiny_folder), base.describe()["sha256"], diff_fit=values))
    tensors = load_file(folder / "adapter.safetensors")
    name = "transformer_blocks.0.ff.net.2.scale"
    for wrong, said in (
        ({key: value for key, value in tensors.items() if name not in key}, "got None"),
        (tensors | {f"difffit {name}": torch.ones(3)}, "got torch.Size.*3"),
        (tensors | {"difffit other": torch.ones(3)}, "other: expected the shape None"),
    ):
        save_file(wrong, folder / "adapter.safetensors")
        with pytest.raises(FormatError, match=rf"adapter\.safetensors: .*{said}"):
            load_prior(folder)
    unet = tiny.pixels(classes=4)
    unet.save_pretrained(tmp_path / "unet")
    sha256 = load_prior(tmp_path / "unet").describe()["sha256"]
    write(tmp_path / "of unet", adapter_files(str(tmp_path / "unet"), sha256, diff_fit=values))
    with pytest.raises(OptionError, match="those of a DiT, which"):
        load_prior(tmp_path / "of unet")


def test_an_adapter_is_a_base_for_another(tiny_folder, tmp_path):
    base = load_prior(tiny_folder)
    first = moved(DiffFit(base.denoiser), seed=1)
    one = write(tmp_path / "one", adapter_files(str(tiny_folder), base.describe()["sha256"], diff_fit=first))
    prior = load_prior(one)
    second = moved(DiffFit(prior.denoiser), seed=2)
    two = write(tmp_path / "two", adapter_files(str(one), prior.describe()["sha256"], diff_fit=second))
    network = merged(merged(base.denoiser, first), second)
    found = load_prior(two).denoiser
    assert all(torch.equal(value, network.get_parameter(name)) for name, value in found.named_parameters())
    record = json.loads((one / "dap_adapter.json").read_text())
    assert record["classes"] == [] and record["rank"] == 0


def write(folder, files):
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
