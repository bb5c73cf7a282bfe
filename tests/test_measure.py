"""The metrics of a whole set against double loops over features computed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dap.data.open import open_source
from dap.data.source import Source
from dap.errors import OptionError
from dap.metrics import measure
from dap.priors import load_prior
from dap.rng import generator


def few(source: Source, per_class: int) -> Source:
    kept = [int(i) for label in range(len(source.class_names)) for i in source.of_class(label)[:per_class]]
    return Source(
        source.name, source.class_names, source.source_ids, source.labels[kept], [source.ids[i] for i in kept],
        lambda index: source.load(kept[index]),
    )  # fmt: skip


def test_measure_equals_double_loops_over_mean_pooled_features_at_t_100(tiny_folder: Path) -> None:
    prior = load_prior(tiny_folder)
    real = few(open_source("fashion-mini", classes=["Dress", "Bag"]), 9)
    own = few(open_source("fashion-mini", split="test", classes=["Dress", "Bag"]), 3)
    cumulative = prior.scheduler("ddpm", 1000).alphas_cumprod[100].double()

    def features(source: Source, label: int, prior_label: int) -> list[np.ndarray]:
        found = []
        for index in source.of_class(label):
            image = torch.from_numpy(source.images([index], size=32, channels=1))
            noise = torch.randn(prior.latent_shape, generator=generator(5, "feature", source.ids[index], 100))
            x = (cumulative.sqrt() * prior.encode(image) + (1 - cumulative).sqrt() * noise).float()
            tokens = prior.features(x, torch.tensor(100), torch.tensor([prior_label]), 1)
            found.append(tokens[0].double().mean(0).numpy())
        return found

    near, spread, covered = [], [], []
    for label, prior_label in ((0, 3), (1, 8)):
        a, b = features(own, label, prior_label), features(real, label, prior_label)
        near.append(np.mean([np.linalg.norm(x - y) for x in a for y in b]))
        spread.append(np.mean([np.linalg.norm(x - y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j]))
        distances = [sorted(np.linalg.norm(x - y) for y in b) for x in b]  # the first is 0, to itself
        inside = [min(np.linalg.norm(x - y) for x in a) <= each[5] for y, each in zip(b, distances, strict=True)]
        covered.append(np.mean(inside))
    found = measure(own, real, prior, seed=5)
    assert found.representativeness == pytest.approx(np.mean(near), rel=1e-4)
    assert found.diversity == pytest.approx(np.mean(spread), rel=1e-4)
    assert found.coverage == pytest.approx(np.mean(covered))


def test_a_class_without_real_images_is_refused(tiny_folder: Path) -> None:
    real = open_source("fashion-mini", classes=["Dress"])
    own = open_source("fashion-mini", split="test", classes=["Dress", "Bag"])
    with pytest.raises(OptionError, match="Bag"):
        measure(own, real, load_prior(tiny_folder))
