"""``dap.distill`` and ``dap.load`` from end to end on the built-in images, and what they say about bad input."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import grey_tree
from PIL import Image

import dap
from dap.data.open import open_source
from dap.errors import ClassMapError, DapError, FormatError, OptionError, SourceError

CLASSES = ("T-shirt/top", "Bag")  # in the order of the source: labels 0 and 8
FOLDERS = ("T-shirt%2Ftop", "Bag")
METHOD_OPTIONS = {"random": {}, "dit": {}, "dap": {"references": 4}}


@pytest.fixture(scope="module")
def run(tiny_folder):
    """Distils with four steps of the tiny prior."""

    def distill(out, source="fashion-mini", **options):
        options = {"method": "dap"} | options
        defaults = {"prior": str(tiny_folder), "ipc": 3, "batch_size": 4, "num_inference_steps": 4, "progress": False}
        if options["method"] == "dap":
            defaults["method_options"] = METHOD_OPTIONS["dap"]
        return dap.distill(source, out=out, **defaults | options)

    return distill


@pytest.fixture(scope="module", params=list(METHOD_OPTIONS))
def distilled(request, run, tmp_path_factory):
    """What each method makes of two classes."""
    return run(tmp_path_factory.mktemp(request.param) / "out", method=request.param, classes=list(CLASSES), seed=5)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A class-per-folder tree of grey 32 x 32 images, two classes of four."""
    return grey_tree(tmp_path_factory.mktemp("tree"), 4, ("Bag", "Dress"))


def method_of(distilled):
    return distilled.manifest["options"]["method"]["name"]


def test_the_folder_holds_these_files_and_no_others(distilled):
    files = {path.relative_to(distilled.path).as_posix() for path in distilled.path.rglob("*") if path.is_file()}
    images = {f"train/{folder}/{number:05d}.png" for folder in FOLDERS for number in range(3)}
    assert files == images | {"dap.json", "contact_sheet.png"}


def test_images_and_labels_come_back_in_order_of_class_and_slot(distilled):
    assert len(distilled) == 6
    assert distilled.class_names == CLASSES
    assert distilled.labels.dtype == np.int64
    np.testing.assert_array_equal(distilled.labels, [0, 0, 0, 1, 1, 1])
    images, labels = distilled.to_torch()
    assert (images.dtype, images.shape) == (torch.uint8, (6, 1, 32, 32))
    assert (labels.dtype, labels.tolist()) == (torch.int64, [0, 0, 0, 1, 1, 1])
    paths = [distilled.path / "train" / folder / f"{number:05d}.png" for folder in FOLDERS for number in range(3)]
    for index, (path, (image, label)) in enumerate(zip(paths, distilled, strict=True)):
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (32, 32)
        np.testing.assert_array_equal(image, pixels[None])
        np.testing.assert_array_equal(images[index, 0].numpy(), pixels)
        assert label == labels[index]
    np.testing.assert_array_equal(distilled[-1][0], images[5].numpy())
    assert len({image.tobytes() for image, _ in distilled}) == 6


def test_load_opens_the_same(distilled):
    loaded = dap.load(str(distilled.path))
    assert loaded.manifest == distilled.manifest
    assert torch.equal(loaded.to_torch()[0], distilled.to_torch()[0])
    expected = f"DistilledDataset({str(distilled.path)!r}, 6 images, 2 classes, method {method_of(distilled)!r})"
    assert repr(loaded) == expected


def test_manifest_records_what_was_asked_for_and_used(distilled, tiny_folder):
    manifest, method = distilled.manifest, method_of(distilled)
    assert manifest == json.loads((distilled.path / "dap.json").read_text())
    assert (manifest["schema"], manifest["status"]) == (1, "complete")
    assert (manifest["ipc"], manifest["ipc_stages"], manifest["batch_size"]) == (3, [3], 4)
    options = manifest["options"]
    assert (options["seed"], options["size"], options["channels"]) == (5, 32, 1)
    for name, value in METHOD_OPTIONS[method].items():
        assert options["method"][name] == value
    assert manifest["source"]["name"] == "fashion-mini"
    assert manifest["source"]["images"] == 2000
    assert re.fullmatch("[0-9a-f]{64}", manifest["source"]["identity"])
    if method == "random":
        assert manifest["prior"] is options["sampling"] is options["device"] is options["dtype"] is None
    else:
        assert manifest["prior"]["name"] == str(tiny_folder)
        assert re.fullmatch("[0-9a-f]{64}", manifest["prior"]["sha256"])
        expected = {"num_inference_steps": 4, "guidance_scale": 4.0, "scheduler": None, "eta": 0.0}
        assert (options["sampling"], options["dtype"]) == (expected, "torch.float32")
    assert manifest["versions"] == {
        "dap": dap.__version__, "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "numpy", "Pillow")},
    }  # fmt: skip
    labels = (None, None) if method == "random" else (0, 8)
    assert manifest["class_map"] == [
        {"name": "T-shirt/top", "source_id": 0, "prior_label": labels[0], "folder": "T-shirt%2Ftop"},
        {"name": "Bag", "source_id": 8, "prior_label": labels[1], "folder": "Bag"},
    ]
    assert set(manifest["seconds"]) == {"prepare", "make"}
    assert all(seconds >= 0 for seconds in manifest["seconds"].values())


def test_manifest_hashes_every_image(distilled):
    found = {
        path.relative_to(distilled.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in distilled.path.glob("train/*/*")
    }
    assert len(found) == 6
    assert distilled.manifest["files"] == found


def test_manifest_names_the_real_images_that_were_used(distilled):
    record, method = distilled.manifest["record"], method_of(distilled)
    if method == "dit":
        assert record == {}
        return
    source = open_source("fashion-mini")
    numbers = {name: number for number, name in enumerate(source.ids)}
    chosen = record["references" if method == "dap" else "images"]
    assert list(chosen) == list(CLASSES)
    for name, ids in chosen.items():
        assert len(set(ids)) == (4 if method == "dap" else 3)
        assert {source.class_names[source.labels[numbers[one]]] for one in ids} == {name}
    if method == "dap":
        assert record["block"] == 1  # a third of three
    else:
        wanted = source.images([numbers[one] for ids in chosen.values() for one in ids], size=32, channels=1)
        np.testing.assert_array_equal(distilled.to_torch()[0].numpy(), wanted)


def test_contact_sheet_shows_a_row_for_each_class(distilled):
    sheet = Image.open(distilled.path / "contact_sheet.png")
    assert sheet.mode == "RGB"
    assert sheet.height == 26 + 2 * 66  # the title and two rows
    assert 3 * 66 < sheet.width < 3 * 66 + 150
    images = distilled.to_torch()[0].numpy()
    for row in range(2):
        for column in range(3):
            left, top = sheet.width - 66 * (3 - column), 26 + 66 * row
            tile = np.asarray(sheet.crop((left, top, left + 64, top + 64)))
            expected = images[3 * row + column, 0].repeat(2, axis=0).repeat(2, axis=1)
            np.testing.assert_array_equal(tile, np.stack([expected] * 3, axis=-1))
    np.testing.assert_array_equal(np.asarray(distilled.show()), np.asarray(sheet))


def test_a_slot_does_not_depend_on_the_other_classes(run, distilled, tmp_path):
    alone = run(tmp_path / "out", method=method_of(distilled), classes=["Bag"], seed=5)
    difference = alone.to_torch()[0].int() - distilled.to_torch()[0][3:].int()
    assert difference.abs().max() <= 1


def test_guidance_changes_the_samples_and_scale_zero_is_unguided(run, tree, tmp_path):
    unguided = run(tmp_path / "dit", tree, method="dit").to_torch()[0]
    guided = run(tmp_path / "dap", tree, method_options={"references": 4, "scale": 3.0}).to_torch()[0]
    off = run(tmp_path / "off", tree, method_options={"references": 4, "scale": 0}).to_torch()[0]
    assert torch.equal(off, unguided)
    assert (guided.int() - unguided.int()).abs().max() > 1


def test_method_object_preset_and_name_with_options_are_the_same_method(run, tree, tmp_path):
    by_name = run(tmp_path / "a", tree, method="dap:paper", method_options={"references": 2})
    method = dap.methods.DAP(references=2, scale=1.0, at="sample", normalise=False)
    by_object = run(tmp_path / "b", tree, method=method, method_options=None)
    assert by_object.manifest["options"] == by_name.manifest["options"]
    assert torch.equal(by_object.to_torch()[0], by_name.to_torch()[0])


def test_prior_object_is_the_same_prior_as_its_folder(run, tree, tiny_folder, tmp_path):
    from diffusers import DiTPipeline

    pipeline = DiTPipeline.from_pretrained(tiny_folder)
    by_object = run(tmp_path / "a", tree, method="dit", prior=pipeline)
    by_folder = run(tmp_path / "b", tree, method="dit")
    assert by_object.manifest["prior"]["sha256"] == by_folder.manifest["prior"]["sha256"]
    assert torch.equal(by_object.to_torch()[0], by_folder.to_torch()[0])


def test_fewer_images_than_references_are_all_used(run, tree, tmp_path):
    found = run(tmp_path / "out", tree, ipc=1, method_options={"references": 100})
    assert found.manifest["record"]["references"].keys() == {"Bag", "Dress"}
    for name, ids in found.manifest["record"]["references"].items():
        assert sorted(ids) == [f"{name}/{number}.png" for number in range(4)]


def test_callback_sees_every_step_of_every_unit_and_may_change_the_latents(run, tree, tmp_path):
    seen = []

    def erase(prior, step, timestep, tensors):
        seen.append((step, timestep, tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    erased = run(tmp_path / "out", tree, method="dit", callback_on_step_end=erase).to_torch()[0]
    assert [step for step, _, _ in seen] == [0, 1, 2, 3] * 2
    assert [shape[0] for _, _, shape in seen] == [4] * 4 + [2] * 4
    timesteps = [timestep for _, timestep, _ in seen[:4]]
    assert timesteps == sorted(timesteps, reverse=True)
    assert (erased == erased[0]).all()


def test_a_run_that_is_not_finished_does_not_load(run, tree, tmp_path):
    def interrupt(prior, step, timestep, tensors):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", tree, callback_on_step_end=interrupt)
    with pytest.raises(SourceError, match="not finished; run the same command again"):
        dap.load(tmp_path / "out")


@pytest.mark.parametrize("folder", ["nothing", "."])
def test_a_folder_without_a_manifest_does_not_load(tmp_path, folder):
    with pytest.raises(SourceError, match=r"no dap\.json"):
        dap.load(tmp_path / folder)


def test_distilled_is_a_source_and_evaluate_is_a_function_after_it(run, tree, tmp_path, monkeypatch, caplog):
    from dap.evaluation import Small
    from dap.evaluation.run import PROTOCOLS

    monkeypatch.setitem(PROTOCOLS, "small", Small(width=4, few_steps=10))
    distilled = run(tmp_path / "out", tree, method="random", ipc=2)
    by_object = dap.evaluate(distilled, tree, real=tree, repeats=2, device="cpu")
    assert [(row.set_name, row.images) for row in by_object.rows] == [("random real", 4), ("distilled", 4)]
    assert by_object.to_json() == dap.evaluate(tmp_path / "out", tree, real=tree, repeats=2, device="cpu").to_json()
    with caplog.at_level("WARNING"):  # a folder that a manifest names is not opened by itself
        alone = dap.evaluate(tmp_path / "out", tree, repeats=1, device="cpu")
    assert [row.set_name for row in alone.rows] == ["distilled"] and f"real={str(tree)!r}" in caplog.text
    assert [row.set_name for row in dap.evaluate(tree, tree, repeats=1, device="cpu").rows] == ["distilled"]


BAD_OPTIONS = {
    "method": ({"method": "dapp"}, OptionError, "unknown method 'dapp'; did you mean 'dap'"),
    "method class": ({"method": dap.methods.DAP, "method_options": None}, OptionError, "method: expected a name"),
    "preset": ({"method": "dap:papr"}, OptionError, "did you mean 'paper'"),
    "option": ({"method_options": {"scal": 1}}, OptionError, "'scal'; did you mean 'scale'"),
    "option's type": ({"method_options": {"scale": "high"}}, OptionError, "scale takes float, got 'high'"),
    "option's range": ({"method_options": {"scale": -1.0}}, OptionError, "scale: expected a number of at least 0"),
    "option of random": ({"method": "random", "method_options": {"scale": 1}}, OptionError, "'scale'"),
    "block": ({"method_options": {"block": 9}}, OptionError, "block: expected 1 to 3, got 9"),
    "block's type": ({"method_options": {"block": "first"}}, OptionError, "block"),
    "kernel": ({"method_options": {"kernel": "rbff"}}, OptionError, "did you mean 'rbf'"),
    "kernel's option": ({"method_options": {"kernel": {"name": "rbf", "bandwith": 3}}}, OptionError, "bandwith"),
    "kernel without name": ({"method_options": {"kernel": {"bandwidth": 3.0}}}, OptionError, "kernel"),
    "kernel's type": ({"method_options": {"kernel": 3}}, OptionError, "kernel"),
    "pooling": ({"method_options": {"pooling": "max"}}, OptionError, "'max'"),
    "window": ({"method_options": {"start": 0.8, "stop": 0.2}}, OptionError, "start=0.8, stop=0.2"),
    "ipc 0": ({"ipc": 0}, OptionError, "ipc: expected a whole number of at least 1, got 0"),
    "ipc True": ({"ipc": True}, OptionError, "ipc: expected"),
    "ipc 1.5": ({"ipc": 1.5}, OptionError, "ipc: expected"),
    "batch size 0": ({"batch_size": 0}, OptionError, "batch_size: expected"),
    "ipc over images": ({"method": "random", "ipc": 5}, OptionError, "'Bag' has 4 images, fewer than ipc=5"),
    "class": ({"classes": ["Dres"]}, OptionError, "unknown class 'Dres'; did you mean 'Dress'"),
    "no class": ({"classes": []}, OptionError, "classes"),
    "steps 0": (
        {"num_inference_steps": 0},
        OptionError,
        "num_inference_steps: expected a whole number of at least 1, got 0",
    ),
    "too many steps": ({"method": "dit", "num_inference_steps": 1001}, OptionError, "num_inference_steps"),
    "guidance scale": ({"guidance_scale": 0.5}, OptionError, "guidance_scale: expected a number of at least 1"),
    "scheduler": ({"scheduler": "dpm+"}, OptionError, "unknown scheduler 'dpm+'; did you mean 'dpm++'"),
    "scheduler of dit": ({"method": "dit", "scheduler": "dpm+"}, OptionError, "unknown scheduler 'dpm+'"),
    "eta": ({"scheduler": "ddim", "eta": 2.0}, OptionError, "eta: expected a number from 0 to 1, got 2.0"),
    "eta of ddpm": ({"eta": 0.5}, OptionError, "eta=0.5"),
    "device": ({"device": "gpu"}, OptionError, "device"),
    "prior's folder": ({"prior": "/nowhere/prior"}, SourceError, "/nowhere/prior"),
    "prior's type": ({"prior": 3}, OptionError, "prior: expected a name, a folder"),
    "source": ({"source": "/nowhere/train"}, SourceError, "cannot open the source '/nowhere/train'"),
    "built-in source": ({"source": "fashion-mimi"}, SourceError, "did you mean 'fashion-mini'"),
    "source's type": ({"source": 3}, SourceError, "cannot read images from"),
}


@pytest.mark.parametrize(("change", "kind", "said"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_input_is_named_and_leaves_nothing_behind(run, tree, tmp_path, change, kind, said):
    with pytest.raises(kind) as caught:
        run(tmp_path / "out", **{"source": tree} | change)
    assert said in str(caught.value)
    assert isinstance(caught.value, DapError)
    assert list(tmp_path.iterdir()) == []


def test_classes_that_the_prior_does_not_know_are_named(run, tree, tmp_path):
    (tmp_path / "source").mkdir()
    for name, classes in (("zebra", "Bag"), ("Bag", "Bag")):
        shutil.copytree(tree / classes, tmp_path / "source" / name)
    with pytest.raises(ClassMapError, match="the prior does not know 1 of 2 classes: 'zebra'"):
        run(tmp_path / "out", tmp_path / "source")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "out", tmp_path / "source", classes=["Bag"], ipc=1).class_names == ("Bag",)


@pytest.mark.parametrize("number", [0, 3], ids=["first", "last"])
@pytest.mark.parametrize("method", ["random", "dap"])
def test_a_corrupt_image_is_named_and_leaves_nothing_behind(run, tree, tmp_path, method, number):
    source = Path(shutil.copytree(tree, tmp_path / "source"))
    damaged = source / "Bag" / f"{number}.png"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(FormatError, match=rf"Bag/{number}\.png: cannot be read as an image"):
        run(tmp_path / "out", source, method=method, ipc=4)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["file", "file/out", "file/deep/out", "dangling"])
def test_an_output_that_cannot_be_written_is_named(run, tree, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OptionError, match=f"out: cannot write to .*{below}"):
        run(tmp_path / below, tree)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


def test_a_method_that_diverges_says_so(run, tree, tmp_path):
    def explode(prior, step, timestep, tensors):
        return {"latents": tensors["latents"] * float("inf")}

    with pytest.raises(dap.errors.DivergedError, match="left the finite numbers"):
        run(tmp_path / "out", tree, callback_on_step_end=explode)
    assert list((tmp_path / "out").glob("train/*/*")) == []


@pytest.mark.parametrize(
    "options",
    [
        {"method": "dit"},
        {"method": "dap_set", "method_options": {"candidates": 3, "references": 4}},
        {"method": "dap_set", "method_options": {"recurrences": 2, "references": 4}},
        {"method": "igd", "method_options": {"width": 4, "epochs": 2, "references": 10}},
    ],
    ids=str,
)
def test_the_progress_bar_ends_at_its_total(run, tmp_path, capsys, monkeypatch, options):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(tmp_path / "out", classes=list(CLASSES), ipc=2, progress=True, scheduler="ddpm", **options)
    shown = [line for line in capsys.readouterr().err.split("\r") if line.startswith(options["method"])]
    done, total = re.search(r"(\d+)/(\d+) \[", shown[-1]).groups()
    assert done == total
