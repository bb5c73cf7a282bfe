"""Latents of all real images: what they are, what the cache holds, and what an index gives instead."""

from __future__ import annotations

import shutil
from dataclasses import replace
from threading import Thread

import numpy as np
import oracles
import pytest
import torch
from PIL import Image

import dap
from dap.data.classmap import build_class_map
from dap.data.from_labels import source_from_labels
from dap.data.open import open_source
from dap.data.source import Source
from dap.errors import FormatError, OptionError
from dap.features import source_of_index
from dap.features.latents import real_latents
from dap.priors.dit import DiTPrior
from dap.storage.cache import LATENTS, cache_folder

NAMES = ("Bag", "Dress")
COUNTS = (300, 3)  # more than one group, and less


def pixels(index):
    return np.random.default_rng(index).integers(0, 256, (32, 32), np.uint8)


def source(names=NAMES, counts=COUNTS):
    labels = np.repeat(np.arange(len(names)), counts)
    return source_from_labels("noise", labels, names, lambda index: Image.fromarray(pixels(index)))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of each test's own."""
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    return cache_folder() / LATENTS


@pytest.fixture
def prior(tiny_pipeline):
    return DiTPrior(tiny_pipeline)


def latents(prior, images=None, **options):
    images = source() if images is None else images
    return real_latents(images, build_class_map(images, prior.labels), prior, **options)


@pytest.fixture
def groups(monkeypatch):
    """Numbers of images that are decoded at once."""
    sizes, images = [], Source.images

    def spy(self, indices, **options):
        sizes.append(len(indices))
        return images(self, indices, **options)

    monkeypatch.setattr(Source, "images", spy)
    return sizes


def test_latents_are_the_means_of_the_vae_in_the_order_of_the_source(prior, tiny_pipeline):
    found, exactly = latents(prior), latents(prior, dtype="float32")
    vae = oracles.double(tiny_pipeline.vae)
    assert [list(found.ids[name]) for name in NAMES] == [[str(i) for i in range(300)], ["300", "301", "302"]]
    assert [found.of_class(name).shape for name in NAMES] == [(300, 4, 8, 8), (3, 4, 8, 8)]
    for name, row, index in (("Bag", 0, 0), ("Bag", 255, 255), ("Bag", 256, 256), ("Bag", 299, 299), ("Dress", 2, 302)):
        image = torch.from_numpy(pixels(index)).double()[None, None] / 127.5 - 1
        with torch.no_grad():
            exact = vae.encode(image).latent_dist.mean[0] * vae.config.scaling_factor
        ours = found.of_class(name)
        assert (ours.dtype, ours.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(exactly.of_class(name)[row].double(), exact, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours, exactly.of_class(name).half().float(), rtol=0, atol=0)


def test_images_are_encoded_once_in_groups_and_only_when_they_are_wanted(prior, groups, folder):
    first = latents(prior)
    assert not groups and not folder.exists()
    bag = first.of_class("Bag")
    assert groups == [256, 44, 3]
    again = latents(prior)
    assert torch.equal(again.of_class("Bag"), bag) and again.of_class("Dress").shape[0] == 3
    assert groups == [256, 44, 3] and len(list(folder.iterdir())) == 1


def test_another_prior_or_other_images_are_other_files(prior, make_pipeline, folder):
    few = source(counts=(2, 2))
    bag = latents(prior, few).of_class("Bag")
    other = latents(DiTPrior(make_pipeline(seed=7)), few).of_class("Bag")
    assert (other - bag).abs().max() > 1e-3
    assert len(latents(prior, source(counts=(3, 1))).of_class("Bag")) == 3
    assert torch.equal(latents(prior, few.subset(["Bag"])).of_class("Bag"), bag)
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("torn", [0, 7, -7], ids=["between groups", "within a group", "within the first group"])
def test_a_build_that_is_stopped_is_continued_after_its_last_group(prior, groups, folder, monkeypatch, torn):
    latents(prior).prepare()
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    shutil.rmtree(folder)
    groups.clear()
    encode = DiTPrior.encode

    def stop(self, images):
        if len(images) == 44:
            raise KeyboardInterrupt
        return encode(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(DiTPrior, "encode", stop)
        with pytest.raises(KeyboardInterrupt) as stopped:
            latents(prior).of_class("Bag")
    assert stopped.value.__notes__ == ["the latents that are encoded are kept; the same command continues after them"]
    (unfinished,) = folder.iterdir()
    if torn:  # as a kill while the second group, or the first one, was written
        kept = (unfinished / "result").read_bytes()
        (unfinished / "result").write_bytes(kept + bytes(torn) if torn > 0 else kept[:torn])
    assert len(latents(prior).of_class("Bag")) == 300
    assert groups == [256, 44] + [256] * (torn < 0) + [44, 3]
    assert [file.name for file in folder.iterdir()] == [entry.name] and entry.read_bytes() == whole


def test_two_that_want_the_same_latents_encode_them_once(prior, folder, monkeypatch):
    encode, threads, found, calls = DiTPrior.encode, [], [], []

    def meanwhile(self, images):
        calls.append(len(images))
        if not threads:
            threads.append(Thread(target=lambda: found.append(latents(prior).of_class("Bag"))))
            threads[0].start()
            threads[0].join(0.3)  # it waits
            assert threads[0].is_alive()
        return encode(self, images)

    monkeypatch.setattr(DiTPrior, "encode", meanwhile)
    rows = latents(prior).of_class("Bag")
    threads[0].join()
    assert torch.equal(rows, found[0]) and calls == [256, 44, 3]
    assert len(list(folder.iterdir())) == 1


def test_an_image_that_cannot_be_read_leaves_nothing_behind(prior, folder, monkeypatch):
    def fail(*_, **__):
        raise FormatError("broken.png")

    monkeypatch.setattr(Source, "images", fail)
    with pytest.raises(FormatError, match="broken"):
        latents(prior).prepare()
    assert list(folder.iterdir()) == []


def test_any_name_may_be_a_classs(prior):
    images = source(("__metadata__", "a/b"), (1, 2))
    entries = build_class_map(source(counts=(1, 2)), prior.labels)
    named = [replace(entry, name=name) for entry, name in zip(entries, images.class_names, strict=True)]
    found = real_latents(images, named, prior)
    assert [len(found.of_class(name)) for name in images.class_names] == [1, 2]


def test_a_damaged_file_is_made_again_and_a_cache_that_cannot_be_written_is_named(prior, folder, tmp_path, monkeypatch):
    few = source(counts=(1, 1))
    before = latents(prior, few).of_class("Bag").clone()  # no map of the file that is damaged below
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for damage in (b"", whole[:100], whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"x"):
        file.write_bytes(damage)
        assert torch.equal(latents(prior, few).of_class("Bag"), before)
        assert file.read_bytes() == whole
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "file"))
    with pytest.raises(OptionError, match=r"the cache .*file cannot be written .*: set DAP_CACHE"):
        latents(prior, few).of_class("Bag")


@pytest.fixture
def tree(tmp_path):
    for name in NAMES:
        (tmp_path / "tree" / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(pixels(number)).save(tmp_path / "tree" / name / f"{number}.png")
    return tmp_path / "tree"


def test_an_index_gives_its_own_latents_and_no_image_is_touched(tree, tiny_folder, tmp_path, groups):
    index = dap.build_index(
        tree, prior=str(tiny_folder), num_inference_steps=4, timesteps=1, max_per_class=2, out=tmp_path / "i",
        progress=False,
    )  # fmt: skip
    prior = DiTPrior.from_pretrained(tiny_folder)
    groups.clear()
    images = source_of_index(index)
    found = latents(prior, images, index=index)
    assert found.ids["Bag"] == index.ids("Bag") and len(found.ids["Bag"]) == 2
    ours = found.of_class("Bag")
    assert ours.dtype == torch.float32 and not groups and not (cache_folder() / LATENTS).exists()
    assert np.array_equal(ours.numpy(), np.asarray(index.latents("Bag"), np.float32))
    ids = [f"Bag/{number}.png" for number in range(3)]
    encoded = latents(prior, open_source(tree)).of_class("Bag")[[ids.index(each) for each in found.ids["Bag"]]]
    torch.testing.assert_close(ours, encoded, rtol=0, atol=2e-3)


def test_an_index_of_another_prior_or_a_part_of_one_is_refused(tree, tiny_folder, tmp_path, make_pipeline):
    options = {"prior": str(tiny_folder), "num_inference_steps": 4, "timesteps": 1, "progress": False}
    index = dap.build_index(tree, out=tmp_path / "i", **options)
    with pytest.raises(OptionError, match=r"does not fit this run \(prior is"):
        latents(DiTPrior(make_pipeline(seed=3)), source_of_index(index), index=index)
    part = dap.build_index(tree, out=tmp_path / "p", shard="1/2", **options)
    with pytest.raises(OptionError, match="is part 1 of 2: join them with dap index merge first"):
        latents(DiTPrior.from_pretrained(tiny_folder), source_of_index(part), index=part)
