"""The labels of a class-conditional prior by name, with ImageNet's own 1,000 ids, descriptions and synonyms."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from dap.data.classmap import find_labels
from dap.data.source import Source
from dap.errors import ClassMapError, OptionError
from dap.priors.dit import DiTPrior
from dap.run.classes import classes_of_source

pytest.importorskip("timm")
from timm.data.imagenet_info import ImageNetInfo

INFO = ImageNetInfo("imagenet-1k")
WNIDS = sorted(INFO.label_names())
DESCRIPTIONS = [str(INFO.label_name_to_description(wnid)) for wnid in WNIDS]
FIRST = [description.split(",")[0].strip() for description in DESCRIPTIONS]


def labels_of_name() -> dict[str, set[int]]:
    """The labels that each synonym of ImageNet stands for."""
    labels = defaultdict(set)
    for label, description in enumerate(DESCRIPTIONS):
        for name in description.split(","):
            labels[name.strip()].add(label)
    return labels


def source(*names: str) -> Source:
    return Source(
        name="photos",
        class_names=names,
        source_ids=tuple(range(len(names))),
        labels=np.arange(len(names)),
        ids=[str(number) for number in range(len(names))],
        load=lambda index: Image.new("L", (8, 8)),
    )


@pytest.fixture(scope="module", params=["described", "last name wins", "saved again", "nameless"])
def imagenet(request, make_pipeline, tmp_path_factory):
    """A prior of 1,000 classes, as the folder of facebook/DiT-XL-2-256 and as diffusers' users hand it on."""
    folder = tmp_path_factory.mktemp("priors") / "dit"
    pipeline = make_pipeline(names=())
    if request.param == "last name wins":  # an object whose folder is gone: only pipeline.labels is left of the names
        pipeline.labels = {name.strip(): label for label, text in enumerate(DESCRIPTIONS) for name in text.split(",")}
        return DiTPrior(pipeline)
    pipeline.save_pretrained(folder)
    if request.param == "nameless":
        return DiTPrior.from_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {str(label): description for label, description in enumerate(DESCRIPTIONS)}
    (folder / "model_index.json").write_text(json.dumps(index))
    if request.param == "saved again":
        type(pipeline).from_pretrained(folder).save_pretrained(again := folder.with_name("again"))
        assert "id2label" not in json.loads((again / "model_index.json").read_text())  # diffusers drops the names
        folder = again
    return DiTPrior.from_pretrained(folder)


def test_every_wnid_is_its_position(imagenet) -> None:
    assert find_labels(WNIDS, imagenet.labels_of(WNIDS)) == {wnid: label for label, wnid in enumerate(WNIDS)}
    assert (WNIDS[0], WNIDS[207], WNIDS[999]) == ("n01440764", "n02099601", "n15075141")  # as ILSVRC 2012 numbers them
    with pytest.raises(ClassMapError, match="n00000001"):
        classes_of_source(source("n00000001"), imagenet, None)


@pytest.mark.parametrize("names", [DESCRIPTIONS, FIRST], ids=["descriptions", "first synonyms"])
def test_a_name_finds_its_own_class_or_is_refused_with_all_candidates(imagenet, names) -> None:
    candidates = labels_of_name()
    for label, name in enumerate(names):
        candidates[name].add(label)
    found = find_labels(names, imagenet.labels)
    for label, name in enumerate(names):
        if len(candidates[name]) == 1:
            assert found[name] == label, name
        else:
            assert found[name] is None and set(imagenet.ambiguous[name.casefold()]) == candidates[name], name


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("crane", "134, 517"),
        ("Crane", "134, 517"),
        ("maillot", "638, 639"),
        ("missile", "657, 744"),
        ("polecat", "358, 361"),
    ],
)
def test_an_ambiguous_folder_is_refused_with_both_labels(imagenet, name, labels) -> None:
    with pytest.raises(ClassMapError, match=f"class '{name}' may be any of the prior's labels {labels}: .*wnid"):
        classes_of_source(source("ox", name), imagenet, None)
    first = int(labels.split(",")[0])
    with pytest.raises(OptionError, match=f"'{name}' for class 'n0' may be .* {labels}: .*label_map={{'n0': {first}}}"):
        classes_of_source(source("n0"), imagenet, {"n0": name})
    assert classes_of_source(source(name), imagenet, {name: first})[0].prior_label == first


def test_a_number_in_range_is_a_label_without_any_name(imagenet) -> None:
    assert classes_of_source(source("cat"), imagenet, {"cat": 3})[0].prior_label == 3


@pytest.mark.parametrize("names", [("thing",), ("tench", "thing")])
def test_other_names_are_not_completed_by_imagenet(make_pipeline, names) -> None:
    prior = DiTPrior(make_pipeline(names=names))  # a table of 1,000 rows
    assert set(prior.labels) == set(names)
    with pytest.raises(ClassMapError, match="n01440764"):
        classes_of_source(source("n01440764"), prior, None)


def test_timm_is_asked_only_about_labels_that_may_be_imagenets(make_pipeline, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("dap.priors.label_names.imagenet_labels", lambda count: asked.append(count) or {})
    DiTPrior(make_pipeline(names=("Bag", "Dress")))  # of a table of 1,000 rows, as the built-in prior has
    assert asked == []  # the import of timm takes seconds
    DiTPrior(make_pipeline(names=()))
    assert asked == [1000]


def test_another_number_of_classes_has_no_wnids(make_pipeline) -> None:
    pipeline = make_pipeline(names=(), classes=10)
    assert DiTPrior(pipeline).labels == {str(label): label for label in range(10)}
