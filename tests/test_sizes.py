"""Methods on colour images of 64 pixels, and igd at 256; test_text_priors runs those that need words or UMAP."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import fill
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel

import dap
from dap.priors.dit import DiTPrior

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

METHODS = {
    "herding": {}, "k_center": {}, "k_medoids": {}, "dit": {}, "dap": {"references": 4},
    "dap_set": {"references": 4}, "dap_networks": {"width": 4, "references": 4},
    "mgd3": {}, "manifold_gd": {}, "d4m": {},
    "igd": {"width": 4, "epochs": 2, "references": 4}, "guided:set_mode": {},
    "plug_and_play": {"steps": 2, "references": 4},
    "plug_and_play, classifier": {"steps": 2, "constraint": "classifier", "epochs": 2, "width": 4},
    "ld3m": {"steps": 1, "chain": 2, "batch": 4, "width": 4},
    "dm": {"space": "latent", "steps": 1, "batch": 4, "width": 4},
    "d3hr": {"groups": 3, "noise_level": 0.5}, "cao2": {"candidates": 2, "steps": 0, "width": 4, "epochs": 2},
    "minimax": {"steps": 2, "batch": 2}, "dmgd": {}, "cgs": {},
    "lgd": {"increment": 1, "learning_epochs": 2, "width": 4, "epochs": 2},
    "filtered": {"method": "dap_set", "candidates": 2, "width": 4, "epochs": 2},
}  # fmt: skip


def prior_of(size):
    """RGB images of any size; latents of shape (4, 8, 8)."""
    levels = int(math.log2(size // 8)) + 1
    with torch.random.fork_rng(devices=[]):
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2, sample_size=8,
            patch_size=2, num_embeds_ada_norm=2,
        )  # fmt: skip
        vae = AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, sample_size=size, block_out_channels=(4,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1, norm_num_groups=2, mid_block_add_attention=False,
        )  # fmt: skip
    for seed, module in enumerate((transformer, vae)):
        fill(module, seed)
    pipeline = DiTPipeline(transformer, vae, DDPMScheduler(clip_sample=False, beta_end=0.004))
    pipeline.register_to_config(id2label={"0": "cat", "1": "oak tree"})
    pipeline.set_progress_bar_config(disable=True)
    return DiTPrior(pipeline)


@pytest.mark.parametrize(
    ("method", "size", "options"),
    [*((method, 64, options) for method, options in METHODS.items()), ("igd", 256, {"network": "convnet6"})],
)
def test_colour_images_of_any_size(method, size, options, photographs, tmp_path):
    made = dap.distill(
        photographs, prior=prior_of(size), out=tmp_path / "out", ipc=2, num_inference_steps=4, progress=False,
        method=method.split(",")[0], method_options=METHODS[method] | options,
    )  # fmt: skip
    images, labels = made.to_torch()
    real = method in ("herding", "k_center", "k_medoids")  # their images keep the size that they have
    assert images.shape == (4, 3, *((36, 40) if real else (size, size))) and labels.tolist() == [0, 0, 1, 1]
    assert images.float().std((2, 3)).min() > 0
