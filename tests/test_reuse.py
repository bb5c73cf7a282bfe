"""The rank of slots in the manifest, whatever happened to the run, and the part of a set that ``take`` gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from PIL import Image

import dap
from dap import dataset, rng
from dap.data.open import open_source
from dap.errors import FormatError, OptionError
from dap.evaluation import Small
from dap.evaluation.run import PROTOCOLS
from dap.run import RunFolder

CLASSES = ["T-shirt/top", "Bag"]
FOLDERS = ("T-shirt%2Ftop", "Bag")


@pytest.fixture(scope="module")
def run(tiny_folder):
    """Five images of each of two classes, in three units of four slots."""

    def distill(out, **changes):
        options = {
            "method": "dap", "method_options": {"references": 4, "scale": 3.0}, "prior": str(tiny_folder), "ipc": 5,
            "batch_size": 4, "num_inference_steps": 3, "classes": CLASSES, "seed": 2, "progress": False,
        }  # fmt: skip
        return dap.distill("fashion-mini", out=out, **options | changes)

    return distill


@pytest.fixture(scope="module")
def distilled(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("distilled") / "out")


def contents(out):
    """Bytes of each file by path; the manifest as its values without times, and the order of its entries."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    manifest = json.loads(found.pop("dap.json"))
    del manifest["seconds"]
    return found | {"dap.json": manifest, "order": list(manifest)}


def test_the_rank_is_greedy_by_the_energy_distance_to_the_references(distilled, tiny_folder):
    """In float64, from the finished files, by trying every slot that is left."""
    from diffusers import DiTPipeline

    pipeline = DiTPipeline.from_pretrained(tiny_folder)
    transformer, vae = oracles.double(pipeline.transformer), oracles.double(pipeline.vae)
    source = open_source("fashion-mini")
    numbers = {name: number for number, name in enumerate(source.ids)}
    assert list(distilled.manifest["rank"]) == CLASSES

    def features(pixels, names, label):
        z = vae.encode(pixels.double() / 127.5 - 1).latent_dist.mean * vae.config.scaling_factor
        noise = torch.stack([torch.randn((4, 8, 8), generator=rng.generator(2, "feature", name, 0)) for name in names])
        now = float(pipeline.scheduler.alphas_cumprod[0])
        noised = now**0.5 * z + (1 - now) ** 0.5 * noise.double()
        return oracles.tokens(transformer, noised, 0, torch.full((len(z),), label), 1).flatten(1)

    for number, (name, label) in enumerate(zip(CLASSES, (0, 8), strict=True)):
        images = distilled.to_torch()[0][5 * number : 5 * number + 5]
        ids = distilled.manifest["record"]["references"][name]
        real = torch.from_numpy(source.images([numbers[each] for each in ids], size=32, channels=1))
        with torch.no_grad():
            made = features(images, [f"{name} slot {slot}" for slot in range(5)], label)
            wanted = features(real, ids, label)

        def distance(chosen, made=made, wanted=wanted):
            own = made[list(chosen)]
            between = sum(float((a - b).norm()) for a in own for b in wanted) / (len(own) * len(wanted))
            within = sum(float((a - b).norm()) for a in own for b in own) / len(own) ** 2
            return 2 * between - within

        order = []
        for _ in range(5):
            order.append(min(set(range(5)) - set(order), key=lambda slot: distance([*order, slot])))
        assert distilled.manifest["rank"][name] == [order.index(slot) for slot in range(5)]
    assert any(rank != sorted(rank) for rank in distilled.manifest["rank"].values())


@pytest.mark.parametrize("moment", ["second unit", "rank", "contact sheet", "finish"])
def test_a_run_that_was_stopped_ranks_as_an_undisturbed_one(run, distilled, tmp_path, monkeypatch, moment):
    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    seen = []

    def stop_later(_prior, _step, _timestep, tensors):
        seen.append(1)
        if len(seen) == 5:
            stop()
        return tensors

    options = {}
    with monkeypatch.context() as patch:
        if moment == "second unit":
            options = {"callback_on_step_end": stop_later}
        elif moment == "rank":
            patch.setattr(dap.methods.DAP, "order", stop)
        elif moment == "contact sheet":
            patch.setattr(dataset, "source_sheet", stop)
        else:
            patch.setattr(RunFolder, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", **options)
    manifest = json.loads((tmp_path / "out" / "dap.json").read_text())
    finished = moment == "contact sheet"  # it is drawn after the run has been finished
    assert ("rank" in manifest, manifest["status"]) == (finished, "complete" if finished else "running")
    assert not (tmp_path / "out" / "contact_sheet.png").exists()
    run(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(distilled.path)
    before = (tmp_path / "out" / "dap.json").stat().st_mtime_ns
    run(tmp_path / "out")
    assert (tmp_path / "out" / "dap.json").stat().st_mtime_ns == before


def test_a_run_that_grew_ranks_all_slots_as_one_that_was_made_at_once(run, tmp_path, monkeypatch):
    """One slot a unit, so that both make the same images."""
    whole = run(tmp_path / "whole", batch_size=1)
    small = run(tmp_path / "grown", batch_size=1, ipc=3)
    assert all(sorted(rank) == [0, 1, 2] for rank in small.manifest["rank"].values())
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "source_sheet", lambda source, manifest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "grown", batch_size=1)
    grown = run(tmp_path / "grown", batch_size=1)
    assert grown.manifest["ipc_stages"] == [3, 5]
    expected, found = contents(whole.path), contents(grown.path)
    expected["dap.json"]["ipc_stages"] = [3, 5]
    energies = [content["dap.json"].pop("energy") for content in (expected, found)]  # by units, which are others
    assert found == expected
    terms = [{term: sorted(map(repr, units.values())) for term, units in energy.items()} for energy in energies]
    assert terms[0] == terms[1]
    assert set(grown.manifest["rank"]["Bag"]) == set(range(5))


def best(distilled, name, n):
    rank = distilled.manifest["rank"][name]
    return sorted(range(len(rank)), key=rank.__getitem__)[:n]


@pytest.mark.parametrize("n", [1, 3, 5])
def test_take_gives_the_best_of_each_class_best_first(distilled, n):
    before = contents(distilled.path)
    part = dap.load(distilled.path).take(n)
    assert type(part) is type(distilled) and (part.path, part.class_names) == (distilled.path, tuple(CLASSES))
    assert len(part) == 2 * n and part.labels.tolist() == [0] * n + [1] * n
    files = [
        f"train/{folder}/{slot:05d}.png"
        for name, folder in zip(CLASSES, FOLDERS, strict=True)
        for slot in best(distilled, name, n)
    ]
    assert part.files == files
    images, labels = part.to_torch()
    assert (images.dtype, images.shape, labels.tolist()) == (torch.uint8, (2 * n, 1, 32, 32), part.labels.tolist())
    for file, image, (pixels, label), wanted in zip(files, images, part, part.labels, strict=True):
        exact = np.asarray(Image.open(distilled.path / file))
        np.testing.assert_array_equal(image[0].numpy(), exact)
        np.testing.assert_array_equal(pixels[0], exact)
        assert label == wanted
    assert part.show().height == distilled.show().height
    assert (
        n == 1 or distilled.show().width - part.show().width == (5 - n) * 66
    )  # a sheet of one is as wide as its title
    assert f"{2 * n} images, 2 classes" in repr(part)
    assert len(distilled) == 10 and contents(distilled.path) == before, "nothing is renamed or written"


def test_a_part_of_a_part_is_a_prefix(distilled):
    part = distilled.take(4)
    assert part.take(2).files == distilled.take(2).files
    assert set(part.files[:2]) == set(distilled.take(2).files[:2])
    with pytest.raises(OptionError, match="take: expected a whole number from 1 to 4, got 5"):
        part.take(5)


@pytest.mark.parametrize("n", [0, -1, 6, 2.0, True, "2"])
def test_more_than_there_are_or_no_number_is_refused(distilled, n):
    with pytest.raises(OptionError, match=f"take: expected a whole number from 1 to 5, got {n!r}"):
        distilled.take(n)


def test_without_a_rank_it_is_the_first_slots(run, tmp_path):
    for method, options in (("dit", {}), ("dap", {"scale": 0.0})):
        made = run(tmp_path / method, method=method, method_options=options, ipc=3)
        assert "rank" not in made.manifest
        assert made.take(2).files == [f"train/{folder}/{slot:05d}.png" for folder in FOLDERS for slot in range(2)]


def test_a_part_is_what_evaluate_trains_on(distilled, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "small", Small(width=4, few_steps=10))
    test = open_source("fashion-mini", split="test", classes=CLASSES)
    rows = dap.evaluate(distilled.take(2), test, repeats=1, device="cpu").rows
    assert {row.set_name: row.images for row in rows} == {"distilled": 4, "random real": 4}


@pytest.mark.parametrize("rank", [[0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 4, 5]])
def test_a_damaged_rank_is_named(distilled, tmp_path, rank):
    out = Path(shutil.copytree(distilled.path, tmp_path / "out"))
    manifest = json.loads((out / "dap.json").read_text())
    manifest["rank"]["Bag"] = rank
    (out / "dap.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="expected ranks 0 to 4 of 'Bag'"):
        dap.load(out)
