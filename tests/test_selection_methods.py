"""The methods that choose real images by the prior's features: which they choose, record and write."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dap
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import OptionError
from dap.features import Tap, default_block, real_features
from dap.priors import load_prior
from dap.rng import derive_seed
from dap.selection import herding, k_center, k_medoids

CLASSES = ["T-shirt/top", "Bag"]
METHODS = ["herding", "k_center", "k_medoids"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Twelve images of each of two classes, as files: the prior is quick with them."""
    source = open_source("fashion-mini", classes=CLASSES)
    folder = tmp_path_factory.mktemp("tree")
    from PIL import Image

    for label, name in enumerate(CLASSES):
        (folder / name.replace("/", "%2F")).mkdir()
        for number, pixels in enumerate(source.images(source.of_class(label)[:12], size=32, channels=1)):
            Image.fromarray(pixels[0]).save(folder / name.replace("/", "%2F") / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def distill(tree, tiny_folder, tmp_path_factory):
    def call(method, ipc=3, out=None, **options):
        out = out or tmp_path_factory.mktemp(method) / "out"
        return dap.distill(tree, method=method, ipc=ipc, out=out, prior=str(tiny_folder), progress=False, **options)

    return call


def features_of(tree, tiny_folder, label, timestep=100, seed=0):
    source, prior = open_source(tree), load_prior(str(tiny_folder))
    indices = source.of_class(label)
    images = torch.from_numpy(source.images(indices, size=32, channels=1))
    entry = build_class_map(source, prior.labels)[label]
    found = real_features(
        prior, images, [source.ids[i] for i in indices], label=entry.label,
        tap=Tap(default_block(prior)), timestep=timestep, seed=seed,
    )  # fmt: skip
    return source, indices, found.numpy()


@pytest.mark.parametrize("method", METHODS)
def test_the_images_are_those_that_the_selector_chooses(method, distill, tree, tiny_folder):
    made = distill(method, seed=4)
    for label, name in enumerate(made.class_names):
        source, indices, features = features_of(tree, tiny_folder, label, seed=4)
        if method == "herding":
            rows = herding(features, 3).indices
        else:
            select = {"k_center": k_center, "k_medoids": k_medoids}[method]
            rows = select(features, 3, seed=derive_seed(4, method, name)).indices
        assert made.manifest["record"]["images"][name] == [source.ids[indices[row]] for row in rows]
        expected = source.images([int(indices[row]) for row in rows], size=32, channels=1)
        np.testing.assert_array_equal(np.stack([made[3 * label + slot][0] for slot in range(3)]), expected)


@pytest.mark.parametrize("method", METHODS)
def test_options_and_what_they_refuse(method, distill):
    made = distill(method, ipc=2, method_options={"timestep": 900, "block": 1})
    assert made.manifest["options"]["method"] == {"name": method, "block": 1, "timestep": 900}
    for options in ({"timestep": 1000}, {"timestep": -1}, {"block": 0}):
        with pytest.raises(OptionError, match=next(iter(options))):
            distill(method, method_options=options)
    with pytest.raises(OptionError, match="has 12 images, fewer than ipc=13"):
        distill(method, ipc=13)


def test_grey_images_may_be_chosen_by_a_grey_prior_and_become_rgb(distill):
    grey, colour = distill("k_medoids"), distill("k_medoids", channels="rgb")
    assert colour.manifest["record"] == grey.manifest["record"] and "features" not in colour.manifest["options"]
    for (pixels, _), (expected, _) in zip(colour, grey, strict=True):
        np.testing.assert_array_equal(pixels, np.repeat(expected, 3, axis=0))


@pytest.mark.parametrize("method", ["herding", "k_center"])
def test_more_images_per_class_keep_the_first(method, distill, tmp_path):
    small = distill(method, ipc=2, out=tmp_path / "out").manifest["record"]["images"]
    large = distill(method, ipc=5, out=tmp_path / "out").manifest["record"]["images"]
    assert {name: ids[:2] for name, ids in large.items()} == small
