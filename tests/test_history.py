"""Other numbers for other classes, classes that are added to a finished run, and images that are made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import grey_tree
from PIL import Image
from test_resume import CLASSES, contents, fixture_of_kill_at, kept, ledger_lines, stamps  # noqa: F401 - a fixture

import dap
from dap.data.manifest import read_manifest
from dap.errors import OptionError, RunMismatchError
from dap.run import plan

SURROGATE = {"width": 4, "epochs": 2, "checkpoints": 1}
METHODS = {
    "random": {}, "k_medoids": {"features": "pixels"}, "dit": {}, "dap": {"method_options": {"references": 3}},
    "dap_set": {"method_options": {"references": 3}}, "dap_set:medoids": {"method_options": {"references": 3}},
    "dap_networks": {"method_options": {"width": 4, "every": 1}},
    "dap_networks:trained": {"method_options": {"width": 4, "epochs": 2, "every": 1}},
    "mgd3": {}, "manifold_gd": {}, "igd": {"method_options": {"width": 4, "epochs": 2, "checkpoints": 1}},
    "ld3m:tiny": {"num_inference_steps": 1}, "dm": {"method_options": {"steps": 2, "batch": 4, "width": 8}},
    "guided": {"method_options": {"terms": [{"name": "influence", "width": 4, "epochs": 2, "checkpoints": 1}]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three classes of five grey 32 x 32 images."""
    return grey_tree(tmp_path_factory.mktemp("source"), 5)


@pytest.fixture(scope="module")
def run(source, tiny_folder):
    """Distils the source by a method's name."""

    def distil(out, method, **options):
        given = {"source": source, "prior": str(tiny_folder), "ipc": 2, "num_inference_steps": 2, "progress": False}
        return dap.distill(out=out, method=method, **given | METHODS[method] | options)

    return distil


def images(out, name):
    """The images of a class, int (n, 32, 32)."""
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in sorted((out / "train" / name).iterdir())])


@pytest.mark.parametrize("method", ["random", "k_medoids", "dap_set:medoids", "mgd3", "igd"])
def test_classes_have_the_numbers_that_were_asked_for(run, tmp_path, method):
    ipc = {"T-shirt/top": 1, "Bag": 3, "Dress": 2}
    distilled = run(tmp_path / "out", method, ipc=ipc)
    assert distilled.labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert distilled.files == [
        f"train/{name}/{number:05d}.png"
        for name, count in zip(CLASSES, (3, 2, 1), strict=True)
        for number in range(count)
    ]
    assert distilled.manifest["ipc"] == ipc
    assert distilled.manifest["ipc_stages"] == [ipc]
    assert distilled.take(1).labels.tolist() == [0, 1, 2]
    wanted = contents(tmp_path / "out")
    if method != "igd":  # as in a run of this class alone
        run(tmp_path / "alone", method, classes=["Bag"], ipc=3)
        assert abs(images(tmp_path / "out", "Bag") - images(tmp_path / "alone", "Bag")).max() <= 1
    (tmp_path / "out" / "train" / "Dress" / "00001.png").unlink()
    run(tmp_path / "out", method, ipc=ipc)
    assert contents(tmp_path / "out") == wanted


def test_equal_numbers_are_one_number(run, tmp_path):
    run(tmp_path / "a", "random", ipc=dict.fromkeys(("Bag", "Dress", "T-shirt/top"), 2))
    run(tmp_path / "b", "random")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("ipc", "said"),
    [
        ({"Bag": 1}, "no number for class 'Dress', 'T-shirt/top'"), ({}, "an empty mapping"),
        ({"Bag": 1, "Dress": 0, "T-shirt/top": 1}, "ipc of class 'Dress': expected .* of at least 1, got 0"),
        ({"Bag": 1, "Dres": 1, "T-shirt/top": 1}, "unknown class in ipc 'Dres'; did you mean 'Dress'"),
        ({"Bag": 6, "Dress": 1, "T-shirt/top": 1}, "class 'Bag' has 5 images, fewer than ipc=6"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_the_classes_are_named(run, tmp_path, ipc, said):
    with pytest.raises(OptionError, match=said):
        run(tmp_path / "out", "random", ipc=ipc)
    assert not (tmp_path / "out").exists()


def test_one_class_grows_where_slots_are_independent(run, tmp_path):
    run(tmp_path / "out", "dit", ipc=1)
    before = stamps(tmp_path / "out", "train/*/*.png")
    grown = run(tmp_path / "out", "dit", ipc={"Bag": 1, "Dress": 3, "T-shirt/top": 1})
    assert kept(before, stamps(tmp_path / "out", "train/*/*.png"))
    assert grown.manifest["ipc_stages"] == [1, {"Bag": 1, "Dress": 3, "T-shirt/top": 1}]
    with pytest.raises(RunMismatchError, match="holds 3 images per class, more than ipc=2"):
        run(tmp_path / "out", "dit", ipc=2)
    with pytest.raises(RunMismatchError, match="holds 3 images of class 'Dress', more than ipc=1"):
        run(tmp_path / "out", "dit", ipc={"Bag": 4, "Dress": 1, "T-shirt/top": 1})


@pytest.mark.parametrize("method", ["k_medoids", "dap", "ld3m:tiny", "dm", "dap_networks"])
def test_an_added_class_is_that_of_the_whole_run_and_the_others_stay(run, tmp_path, method):
    part, whole = tmp_path / "part", tmp_path / "whole"
    run(part, method, classes=["Bag", "T-shirt/top"])
    before = stamps(part, "train/*/*.png")
    grown = run(part, method)
    assert kept(before, stamps(part, "train/*/*.png"))
    assert grown.manifest["ipc_stages"] == [{"Bag": 2, "T-shirt/top": 2}, 2]
    assert grown.class_names == ("Bag", "Dress", "T-shirt/top")
    run(whole, method)
    for name in CLASSES:
        assert abs(images(part, name) - images(whole, name)).max() <= 1
    after = contents(part)
    shutil.rmtree(part / "train")
    run(part, method)
    assert contents(part) == after


def test_an_added_class_has_the_bytes_of_the_whole_run_where_units_are_the_same(run, tmp_path):
    for classes in (["Bag", "Dress"], None):
        run(tmp_path / "part", "dap", classes=classes, batch_size=1)
    run(tmp_path / "whole", "dap", batch_size=1)
    part, whole = contents(tmp_path / "part"), contents(tmp_path / "whole")
    assert part["dap.json"].pop("ipc_stages") != whole["dap.json"].pop("ipc_stages")
    assert part == whole


def test_a_class_folder_that_was_added_to_the_source_is_added_to_the_set(run, source, tmp_path):
    images = Path(shutil.copytree(source, tmp_path / "images"))
    shutil.move(images / "Dress", tmp_path / "Dress")
    run(tmp_path / "out", "dit", source=images)
    before = stamps(tmp_path / "out", "train/*/*.png")
    shutil.move(tmp_path / "Dress", images / "Dress")
    run(tmp_path / "out", "dit", source=images)
    assert kept(before, stamps(tmp_path / "out", "train/*/*.png"))
    (images / "Bag" / "0.png").unlink()
    with pytest.raises(RunMismatchError, match=r"source\.identity"):
        run(tmp_path / "out", "dit", source=images)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("igd", {}, "class 'T-shirt/top' cannot be added, since the classes of this method share a surrogate"),
        ("dap_networks:trained", {}, "share networks that are trained on the images of all classes"),
        ("dit", {"seed": 1}, r"options\.seed: there 0, now 1"),
        ("dit", {"classes": ["Bag", "T-shirt/top"]}, "class_map"),
        ("dit", {"classes": ["Bag"]}, "holds class 'Dress' too"),
        ("mgd3", {"ipc": 3}, "ipc=2 cannot grow to 3"),
    ],
)
def test_a_set_that_cannot_grow_says_why_and_stays(run, tmp_path, method, options, said):
    run(tmp_path / "out", method, classes=["Bag", "Dress"])
    before = stamps(tmp_path / "out")
    with pytest.raises(RunMismatchError, match=said):
        run(tmp_path / "out", method, **options)
    assert stamps(tmp_path / "out") == before


@pytest.mark.parametrize("method", ["igd", "guided"])
def test_a_run_of_an_older_version_of_a_method_is_not_continued(run, tmp_path, method):
    out = run(tmp_path / "out", method).path
    name = {"igd": "igd", "guided": "influence"}[method]
    manifest = json.loads((out / "dap.json").read_text())
    assert manifest["options"].pop("method_versions") == {name: dap.terms.Influence.version}
    (out / "dap.json").write_text(json.dumps(manifest))
    before = stamps(out)
    said = rf"was made by version 1 of '{name}'; this dap has version {dap.terms.Influence.version}"
    with pytest.raises(RunMismatchError, match=said):
        run(out, method)
    assert stamps(out) == before


def test_a_run_of_a_version_without_an_option_is_continued_at_its_default(run, tmp_path):
    out = run(tmp_path / "out", "mgd3").path
    manifest = json.loads((out / "dap.json").read_text())
    assert manifest["options"]["method"].pop("at") == "x0"
    (out / "dap.json").write_text(json.dumps(manifest))
    (out / "train" / CLASSES[0] / "00000.png").unlink()
    run(out, "mgd3")
    with pytest.raises(RunMismatchError, match=r"options\.method\.at"):
        manifest = json.loads((out / "dap.json").read_text())
        manifest["options"]["method"].pop("at")
        (out / "dap.json").write_text(json.dumps(manifest))
        run(out, "mgd3", method_options={"at": "eps"})


@pytest.mark.parametrize("method", ["dap_set", "dap_set:medoids", "igd", "manifold_gd", "dap_networks:trained"])
def test_an_image_that_is_made_again_is_another_and_the_others_stay(run, tmp_path, method):
    wanted, numbers = ("Bag", [0, 1]) if method == "dap_set:medoids" else ("Bag/1", [1])
    out = tmp_path / "out"
    run(out, method)
    before = contents(out)
    manifest = run(out, method, remake=wanted).manifest
    after = contents(out)
    assert changed(before, after) == {f"train/Bag/{number:05d}.png" for number in numbers}
    assert manifest["remade"] == [{"Bag": numbers}]
    assert manifest["files"].keys() == before["dap.json"]["files"].keys()
    shutil.rmtree(out / "train")  # all images come back as they were
    run(out, method)
    assert contents(out) == after


def changed(before, after):
    return {path for path in before if path.startswith("train") and before[path] != after[path]}


def test_an_image_is_made_again_each_time_that_it_is_asked_for_and_always_the_same_way(run, tmp_path):
    for out in (tmp_path / "a", tmp_path / "b"):
        run(out, "dit")
        found = []
        for _ in range(2):
            run(out, "dit", remake=["Dress/0"])
            found.append(contents(out))
        assert changed(*found) == {"train/Dress/00000.png"}
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_remake_that_was_killed_at_any_change_of_the_disk_ends_the_same(run, tmp_path, kill_at):
    options = {"num_inference_steps": 1, "batch_size": 2, "classes": ["Bag", "Dress"]}
    start, expected = tmp_path / "start", tmp_path / "expected"
    run(start, "dit", **options)
    shutil.copytree(start, expected)
    made = run(expected, "dit", **options, remake=["Bag/1", "Dress/0"])
    at, going = 0, True
    while going:
        at += 1
        out = Path(shutil.copytree(start, tmp_path / f"killed-{at}"))
        going = kill_at(
            at, source=made.manifest["source"]["name"], prior=made.manifest["prior"]["name"], method="dit", ipc=2,
            out=out, progress=False, remake=["Bag/1", "Dress/0"], **options,
        )  # fmt: skip
        manifest = read_manifest(out)
        done = manifest["status"] == "complete" and "remade" in manifest  # asked again, it would make others
        run(out, "dit", **options, remake=() if done else ["Bag/1", "Dress/0"])
        assert contents(out) == contents(expected), at
    assert at > 15


def test_prompts_of_added_classes_are_added(source, tmp_path):
    import tiny

    from dap.priors.stable_diffusion import StableDiffusionPrior

    pipeline = tiny.stable_diffusion()
    options = {
        "source": source,
        "method": "dit",
        "ipc": 1,
        "num_inference_steps": 1,
        "progress": False,
        "channels": "rgb",
    }
    bag, dress = {"Bag": "a bag"}, {"Dress": "a long dress"}

    def grow(prompts, classes):
        prior = StableDiffusionPrior(pipeline, prompts=prompts)
        return dap.distill(prior=prior, classes=classes, out=tmp_path / "out", **options)

    grow(bag, ["Bag"])
    before = stamps(tmp_path / "out", "train/*/*.png")
    grown = grow(bag | dress, ["Bag", "Dress"])
    assert grown.manifest["prior"]["prompts"] == bag | dress
    assert kept(before, stamps(tmp_path / "out", "train/*/*.png"))
    with pytest.raises(RunMismatchError, match=r"prior\.prompts\.Bag"):
        grow({"Bag": "a sack"} | dress, ["Bag", "Dress", "T-shirt/top"])


def test_a_remake_that_was_stopped_is_continued_by_the_same_call(run, tmp_path):
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    for folder in (out, undisturbed):
        run(folder, "dit", batch_size=1)

    def stop(prior, step, timestep, tensors, steps=[]):  # noqa: B006
        steps.append(step)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return tensors

    remake = ["T-shirt/top", "Bag/0"]
    with pytest.raises(KeyboardInterrupt):
        run(out, "dit", batch_size=1, remake=remake, callback_on_step_end=stop)
    assert sum(b'"unit"' in line for line in ledger_lines(out)) == 1
    run(out, "dit", batch_size=1, remake=remake)
    run(undisturbed, "dit", batch_size=1, remake=remake)
    assert contents(out) == contents(undisturbed)


def test_an_image_of_an_unfinished_run_can_be_made_again(run, tmp_path):
    def stop(prior, step, timestep, tensors, steps=[]):  # noqa: B006
        steps.append(step)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return tensors

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(out, "dit", batch_size=1, callback_on_step_end=stop)
    first = (out / "train" / "Bag" / "00000.png").read_bytes()
    run(out, "dit", batch_size=1, remake="Bag/0")
    run(tmp_path / "whole", "dit", batch_size=1)
    run(tmp_path / "whole", "dit", batch_size=1, remake="Bag/0")
    assert (out / "train" / "Bag" / "00000.png").read_bytes() != first
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("method", "remake", "said"),
    [
        ("dit", "Bag/2", "class 'Bag' has images 0 to 1, got 'Bag/2'"),
        ("dit", ["Bog/1"], "expected CLASS/NUMBER, such as 'Bag/0', or CLASS, of the classes 'Bag', 'Dress'"),
        ("dit", ["Bag/-1"], "got 'Bag/-1'"), ("dit", "Bag/9999999999999", "got 'Bag/9"), ("dit", [3], "got 3"),
        ("random", "Bag/0", "method 'random' chooses real images"),
        ("dap_set:medoids", "Bag/0", "make the whole class again, 'Bag'"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_again_is_named_and_nothing_changes(run, tmp_path, method, remake, said):
    run(tmp_path / "out", method, classes=["Bag", "Dress"])
    before = stamps(tmp_path / "out")
    with pytest.raises(OptionError, match=said):
        run(tmp_path / "out", method, classes=["Bag", "Dress"], remake=remake)
    assert stamps(tmp_path / "out") == before


def test_a_folder_without_a_run_has_nothing_to_make_again(run, tmp_path):
    with pytest.raises(OptionError, match="holds no run"):
        run(tmp_path / "out", "dit", remake="Bag/0")
    assert not (tmp_path / "out").exists()


def triples(unit):
    return [(slot.class_index, slot.number, slot.again) for slot in unit.slots]


def written(units, unit):
    return [(slot.class_index, slot.number) for slot in units.written(unit)]


def test_units_of_what_is_made_again_have_its_numbers_and_what_it_depends_on():
    rounds = [{1: [2], 0: [0, 1]}, {1: [2]}]
    units = plan([(2, 3)], 2, "slot", rounds)
    assert [triples(unit) for unit in units] == [
        [(0, 0, 0), (0, 1, 0)], [(1, 0, 0), (1, 1, 0)], [(1, 2, 0)], [(0, 0, 1), (0, 1, 1)], [(1, 2, 1)], [(1, 2, 2)],
    ]  # fmt: skip
    assert [written(units, unit) for unit in units] == [[], [(1, 0), (1, 1)], [], [(0, 0), (0, 1)], [], [(1, 2)]]
    units = plan([(2, 3)], 9, "class", rounds[::-1])
    assert [triples(unit) for unit in units][1:] == [
        [(1, 0, 0), (1, 1, 0), (1, 2, 1)], [(0, 0, 1), (0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 2, 2)],
    ]  # fmt: skip
    assert [written(units, unit) for unit in units] == [[(1, 0), (1, 1)], [], [(0, 0), (0, 1), (1, 2)]]
    units = plan([(2, 3)], 9, "sequence", [{1: [1]}])
    assert triples(units[1]) == [(1, 0, 0), (1, 1, 1)]
    assert written(units, units[1]) == [(1, 1)]


@pytest.mark.parametrize(
    ("couples", "batch_size", "sizes"),
    [("slot", 4, [4, 4, 4, 3]), ("class", 4, [4, 7, 4]), ("class", 3, [3, 1, 7, 4]), ("sequence", 2, [4, 11])],
)
def test_units_of_classes_of_other_sizes(couples, batch_size, sizes):
    counts = (3, 1, 7, 0, 4)
    units = plan([counts], batch_size, couples)
    slots = [(index, number) for index, count in enumerate(counts) for number in range(count)]
    assert [(slot.class_index, slot.number) for unit in units for slot in unit.slots] == slots
    assert [len(unit.slots) for unit in units] == sizes
