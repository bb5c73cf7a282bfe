"""A small random DiTPipeline, made the same way each time and without touching torch's global seed."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

CACHE = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config):
    """A cache of the tests' own, before any module copies the environment: an old entry could hide a change."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has one core
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    config.stash[CACHE] = tempfile.TemporaryDirectory(prefix="dap-cache-")
    os.environ["DAP_CACHE"] = config.stash[CACHE].name
    os.environ.setdefault("GLIBC_TUNABLES", "")  # so that no command changes how the tests' process keeps its memory


def pytest_unconfigure(config):
    config.stash[CACHE].cleanup()


FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def fill(module, seed):
    """Gives every parameter a random value that keeps activations near one; nothing stays zero, as gates would."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.2
        offset = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
        with torch.no_grad():
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))


def build_pipeline(image_channels=1, out_channels=4, seed=0, scheduler=None, names=FASHION, classes=1000):
    from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):  # diffusers initialises from the global generator
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=out_channels, num_layers=3,
            sample_size=8, patch_size=2, num_embeds_ada_norm=classes,
        )  # fmt: skip
        vae = AutoencoderKL(
            in_channels=image_channels, out_channels=image_channels, latent_channels=4, sample_size=32,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4,
        )  # fmt: skip
    fill(transformer, seed)
    fill(vae, seed + 1)
    # A random network does not denoise: with the usual ᾱ of 4e-5 at the end, x̂_0 = x / √ᾱ would reach the hundreds.
    scheduler = scheduler or DDPMScheduler(clip_sample=False, beta_end=0.004)
    pipeline = DiTPipeline(transformer, vae, scheduler)
    pipeline.register_to_config(id2label={str(label): name for label, name in enumerate(names)})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def make_pipeline():
    """``build_pipeline`` itself, for tests that choose its arguments."""
    return build_pipeline


@pytest.fixture
def tiny_pipeline():
    """Grey 32 x 32 images, latents of shape (4, 8, 8), 3 blocks of width 16 over 16 tokens; a new one for each test."""
    return build_pipeline()


@pytest.fixture
def tiny_learned_pipeline():
    """As ``tiny_pipeline``, for RGB images and with the output channels of a learned variance."""
    return build_pipeline(image_channels=3, out_channels=8)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of a saved ``tiny_pipeline``."""
    folder = tmp_path_factory.mktemp("priors") / "tiny-dit"
    build_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def log_levels():
    """The levels of dap's loggers after a test are those before it: commands raise them for their process."""

    def levels():
        named = logging.root.manager.loggerDict.items()
        return {name: each.level for name, each in named if name.startswith("dap") and isinstance(each, logging.Logger)}

    before = levels()
    yield
    for name in levels():
        logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs ``dap`` with these arguments in this process; returns exit code, standard output and standard error."""
    from dap.cli.main import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dap", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def own_tables(monkeypatch):
    """Methods and terms that a test registers are gone after it."""
    from dap.methods import METHODS, TERMS

    for table in (METHODS, TERMS):
        list(table)
        monkeypatch.setattr(table, "_entries", dict(table._entries))


@pytest.fixture
def photographs(tmp_path):
    """Five images of 40 x 36 in each of two classes, "cat" and "oak tree"."""
    draw = np.random.default_rng(0)
    for name in ("cat", "oak tree"):
        folder = tmp_path / "photographs" / name
        folder.mkdir(parents=True)
        for number in range(5):
            pixels = draw.integers(0, 256, (5, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((40, 36), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return tmp_path / "photographs"


def grey_tree(folder: Path, count: int, names=("Bag", "Dress", "T-shirt%2Ftop")) -> Path:
    """Write a folder of random grey 32 x 32 images for each class."""
    draw = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (32, 32), np.uint8)).save(folder / name / f"{number}.png")
    return folder
