"""The embedded default: sizes, diffusers' own pipeline on it, and images that a judge of real images recognises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline

import dap
from dap.data.builtin import FASHION_CLASSES
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.features import encode_images
from dap.nets import ConvNet, accuracy, train_classifier
from dap.priors import BUILTIN, load_prior
from dap.rng import generator

FOLDER = BUILTIN["fashion-dit"]


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*")) / 1e6


def test_assets_stay_small_and_hold_no_pickle() -> None:
    assert megabytes(FOLDER) < 16
    assert megabytes(FOLDER.parent / "fashion_mini") < 9
    assert {file.suffix for file in FOLDER.rglob("*") if file.is_file()} <= {".json", ".safetensors", ".md"}


def test_pipeline_of_diffusers_works_with_its_defaults() -> None:
    pipeline = DiTPipeline.from_pretrained(FOLDER, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline(class_labels=[0], num_inference_steps=4).images
    assert (image.size, image.mode) == ((32, 32), "L")
    assert np.asarray(image).std() > 20


def test_latents_are_standardised_and_decode_to_what_was_encoded() -> None:
    prior = load_prior("fashion-dit")
    images = torch.from_numpy(open_source("fashion-mini", split="test").images(range(200), size=32, channels=1))
    latents = encode_images(prior, images)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1
    error = (prior.decode(latents).float() - images.float()).abs().mean() / 127.5
    assert error < 0.03  # L1 on [-1, 1]


def test_labels_are_those_of_the_data() -> None:
    prior = load_prior("fashion-dit")
    entries = build_class_map(open_source("fashion-mini"), prior.labels)
    assert [(entry.name, entry.prior_label) for entry in entries] == list(zip(FASHION_CLASSES, range(10), strict=True))


@pytest.fixture(scope="module")
def classifier() -> ConvNet:
    """A net of half the judge's width and a twelfth of its steps keeps this quick."""
    source = open_source("fashion-mini")
    chosen = np.concatenate([source.of_class(label)[:200] for label in range(10)])
    real = torch.from_numpy(source.images(chosen, size=32, channels=1))
    net = ConvNet(depth=3, width=32, channels=1, classes=10, size=32, generator=generator(0, "net"))
    train_classifier(
        net, real, torch.from_numpy(source.labels[chosen]), steps=100, batch_size=100, peak_lr=3e-3, weight_decay=5e-4,
        generator=generator(0, "train"),
    )  # fmt: skip
    return net


@pytest.mark.parametrize(("method", "options"), [("dit", {}), ("dap", {"references": 16})])
def test_a_classifier_of_real_images_recognises_the_images(classifier: ConvNet, method, options, tmp_path) -> None:
    distilled = dap.distill(
        "fashion-mini", method=method, method_options=options, ipc=5, num_inference_steps=20, out=tmp_path / "out",
        progress=False,
    )  # fmt: skip
    images, labels = distilled.to_torch()
    assert accuracy(classifier, images, labels) > 0.7
    assert len({image.numpy().tobytes() for image in images}) == len(images)
