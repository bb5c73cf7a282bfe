"""filtered: candidates are what the method makes with other random numbers, and the classifier's choice of them."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
from conftest import grey_tree
from test_mgd3 import NAMES, context

import dap
from dap import rng
from dap.errors import OptionError, RunMismatchError
from dap.methods import MGD3, DAPSet, DiT, Filtered, get_method
from dap.methods.base import Slot, Unit
from dap.methods.common.classifier import Classifier
from dap.methods.filtered import _chosen
from dap.priors.dit import DiTPrior

UNIT = Unit(0, tuple(Slot(index, number, again) for index in (0, 2) for number, again in ((0, 0), (1, 2), (2, 0))))
SMALL = {"width": 4, "epochs": 2}


def by_brightness(images):
    """Logits of three classes: the last one is that of bright images."""
    mean = 4 * images.mean((1, 2, 3))
    return torch.stack([-mean, 0 * mean, mean], 1)


def preference(p, wanted, surest):
    """Sorts candidates by their probabilities: the first one is kept."""
    right = p.index(max(p)) == wanted
    return (0, -p[wanted] if surest else p[wanted]) if right else (1, -p[wanted])


@pytest.fixture
def given(tiny_pipeline):
    return dataclasses.replace(context(DiTPrior(tiny_pipeline)), pass_size=None)


@pytest.mark.parametrize("method", [DiT(), MGD3(), DAPSet(references=4)], ids=lambda method: method.name)
@pytest.mark.parametrize("surest", [True, False])
def test_each_slot_keeps_the_candidate_that_the_classifier_prefers(given, method, surest):
    filtered = Filtered(method=method, candidates=3, surest=surest)
    prepared = method.prepare(given)
    kept = filtered.make(given, UNIT, (prepared, Classifier(by_brightness, {})))
    again = [
        tuple(dataclasses.replace(slot, again=3 * slot.again + number) for slot in UNIT.slots) for number in range(3)
    ]
    made = [method.make(given, Unit(0, slots), prepared) for slots in again]
    chosen = []
    for place, slot in enumerate(UNIT.slots):
        images = given.prior.decode(torch.stack([candidates[place] for candidates in made])).float() / 127.5 - 1
        p = by_brightness(images).softmax(1).tolist()
        order = sorted(range(3), key=lambda i: preference(p[i], slot.class_index, surest))
        chosen.append(order[0])
        assert torch.equal(kept[place], made[order[0]][place])
    assert len(set(chosen)) > 1, "the choices differ"


@pytest.mark.parametrize("surest", [True, False])
def test_the_candidate_that_is_kept_is_of_the_class_or_the_nearest_to_it(surest):
    draw = rng.generator(3)
    for count in (1, 2, 5):
        for _ in range(60):
            probabilities = torch.rand((count, 4), generator=draw)
            probabilities /= probabilities.sum(1, keepdim=True)
            rows = probabilities.tolist()
            best = min(range(count), key=lambda row: preference(rows[row], 2, surest))
            assert _chosen(probabilities, 2, surest) == best
    wrong = torch.tensor([[0.9, 0.1, 0.0], [0.4, 0.3, 0.3]])
    assert _chosen(wrong, 2, surest) == 1, "not the one that is most confidently of another class"


def test_one_candidate_is_what_the_method_makes(given):
    method = MGD3()
    artefact = method.prepare(given)
    judge = Classifier(by_brightness, {})
    alone = method.make(given, UNIT, artefact)
    first = tuple(dataclasses.replace(slot, again=0) for slot in UNIT.slots)
    assert torch.equal(Filtered(method=method, candidates=1).make(given, UNIT, (artefact, judge)), alone)
    kept = Filtered(method=method, candidates=2).make(given, Unit(0, first), (artefact, judge))
    same = (kept == method.make(given, Unit(0, first), artefact)).flatten(1).all(1)
    assert same.any() and not same.all()


def test_it_says_what_its_method_says(given):
    method = MGD3()
    filtered = Filtered(method=method, candidates=3)
    artefact = method.prepare(given)
    both = (artefact, Classifier(by_brightness, {"epochs": 5}))
    assert filtered.record(given, both) == {"method": method.record(given, artefact), "classifier": {"epochs": 5}}
    assert filtered.weights(given, both) == artefact.sizes and list(artefact.sizes) == list(NAMES)
    assert filtered.steps_per_slot(given) == 9 and filtered.demands(given) == method.demands(given)
    assert filtered.shared() == "a classifier of all classes" and filtered.disk(given) == method.disk(given)
    assert Filtered(method="mgd3", teacher="t.safetensors").shared() is None


def test_methods_by_name_preset_and_options():
    assert Filtered().method == DiT()
    assert Filtered(method="mgd3:paper").method == get_method("mgd3:paper")
    assert Filtered(method={"name": "dap", "scale": 2.0}).method == get_method("dap", {"scale": 2.0})
    for wrong, message in (
        ("k_medoids", "'filtered' cannot take 'k_medoids': no prior makes its images"),
        ("filtered", "'filtered' cannot take 'filtered': it is a filter itself"),
        ("igd", "'filtered' cannot take 'igd': it cannot make a slot again"),
        ("cao2", "'filtered' cannot take 'cao2': it cannot make a slot again"),
        ("mgd", "unknown method 'mgd'; did you mean 'mgd3'"),
        ({"scale": 1.0}, "method: expected the name of a method among its options"),
        ('{"name": "mgd3"', "method: expected a name, or a name and options as JSON"),
        ({"name": "dap", "scal": 1.0}, "unknown option of method 'dap' 'scal'"),
        (3, "method: expected a name or an object"),
    ):
        with pytest.raises(OptionError, match=message):
            Filtered(method=wrong)
    with pytest.raises(OptionError, match="candidates: expected a whole number of at least 1, got 0"):
        Filtered(candidates=0)
    with pytest.raises(OptionError, match="surest: expected true or false, got 1"):
        Filtered(surest=1)


def test_a_run_is_the_same_to_the_byte_resumes_and_is_made_again(tiny_pipeline, tmp_path):
    tree = grey_tree(tmp_path / "tree", 4, ("Bag", "Dress"))
    options = {"method": "mgd3", "candidates": 2, **SMALL}
    settings = {"prior": tiny_pipeline, "method": "filtered", "ipc": 2, "num_inference_steps": 3, "progress": False}
    once = dap.distill(tree, method_options=options, out=tmp_path / "a", **settings)
    again = dap.distill(
        tree, method=Filtered(method=MGD3(), candidates=2, **SMALL), out=tmp_path / "b",
        **{name: value for name, value in settings.items() if name != "method"},
    )  # fmt: skip
    files = {file: (tmp_path / "a" / file).read_bytes() for file in once.files}
    assert files == {file: (tmp_path / "b" / file).read_bytes() for file in again.files}
    assert once.manifest["options"]["method"] == again.manifest["options"]["method"]
    assert once.manifest["options"]["method"]["method"]["name"] == "mgd3" and "weights" in once.manifest
    (tmp_path / "a" / once.files[0]).unlink()
    dap.distill(tree, method_options=options, out=tmp_path / "a", **settings)
    assert files == {file: (tmp_path / "a" / file).read_bytes() for file in once.files}
    dap.distill(tree, method_options=options, out=tmp_path / "a", remake="Bag/1", **settings)
    changed = [file for file in once.files if files[file] != (tmp_path / "a" / file).read_bytes()]
    assert changed == ["train/Bag/00001.png"]


TRAINED = {
    "dm": {"space": "latent", "steps": 2, "batch": 4, "width": 8}, "d3m": {"steps": 2, "batch": 2},
    "lgd": {"increment": 1, "learning_epochs": 2, **SMALL}, "minimax": {"steps": 2, "batch": 2},
}  # fmt: skip


@pytest.mark.parametrize("method", TRAINED)
def test_methods_that_train_something_are_filtered(method, tiny_pipeline, photographs, tmp_path):
    """One candidate has the bytes of the method alone; two are chosen from, and the files of the method are kept."""
    prior, source = tiny.stable_diffusion(), photographs
    if method == "minimax":
        prior, source = tiny_pipeline, grey_tree(tmp_path / "tree", 4, ("Bag", "Dress"))
    settings = {"prior": prior, "ipc": 2, "num_inference_steps": 3, "progress": False}
    alone = dap.distill(
        source, method=method, method_options=TRAINED[method], out=tmp_path / "alone", **settings,
    )  # fmt: skip
    found = {
        count: dap.distill(
            source, method="filtered", out=tmp_path / f"{count}", **settings,
            method_options={"method": {"name": method} | TRAINED[method], "candidates": count, **SMALL},
        )
        for count in (1, 2)
    }  # fmt: skip
    own = [(tmp_path / "alone" / file).read_bytes() for file in alone.files]
    assert [(tmp_path / "1" / file).read_bytes() for file in found[1].files] == own
    two = [(tmp_path / "2" / file).read_bytes() for file in found[2].files]
    assert len(two) == 4 and two != own
    kept = {file for file in ("adapter", "embeddings") if (tmp_path / "alone" / file).exists()}
    assert kept == {file for file in ("adapter", "embeddings") if (tmp_path / "2" / file).exists()}
    assert bool(kept) == (method in ("d3m", "minimax"))


def test_another_teacher_does_not_go_on_with_a_run(tiny_pipeline, tmp_path, monkeypatch):
    tree = grey_tree(tmp_path / "tree", 4, ("Bag", "Dress"))
    settings = {"prior": tiny_pipeline, "ipc": 1, "num_inference_steps": 2, "out": tmp_path / "out", "progress": False}
    method = Filtered(candidates=2, **SMALL)

    def taught_by(letter):
        return lambda *_: {"method": {}, "classifier": {"teacher": "t", "sha256": 64 * letter}}

    monkeypatch.setattr(Filtered, "record", taught_by("a"))
    once = dap.distill(tree, method=method, **settings)
    (tmp_path / "out" / once.files[0]).unlink()
    monkeypatch.setattr(Filtered, "record", taught_by("b"))
    with pytest.raises(RunMismatchError, match=r"the classifier has other weights .SHA-256 bbbbbbbbbbbb. than the one"):
        dap.distill(tree, method=method, **settings)
    monkeypatch.setattr(Filtered, "record", taught_by("a"))
    dap.distill(tree, method=method, **settings)
    assert dap.load(tmp_path / "out").manifest["record"]["classifier"]["sha256"] == 64 * "a"


def test_the_command(tiny_pipeline, tmp_path, command_line):
    tree = grey_tree(tmp_path / "tree", 4, ("Bag", "Dress"))
    tiny_pipeline.save_pretrained(tmp_path / "prior")
    run = (
        "distill",
        tree,
        "--prior",
        tmp_path / "prior",
        "--method",
        "filtered",
        "--ipc",
        "1",
        "--num-inference-steps",
        "2",
    )
    small = ("--set", "candidates=2", "--set", "width=4", "--set", "epochs=2", "--out", tmp_path / "out")
    code, _, error = command_line(*run, "--set", 'method={"name": "dap", "references": 4}', *small)
    assert not code, error
    manifest = dap.load(tmp_path / "out").manifest
    assert manifest["options"]["method"]["method"]["references"] == 4
    code, _, error = command_line(*run, "--set", "method=random", *small)
    assert code and "'filtered' cannot take 'random': no prior makes its images" in error
