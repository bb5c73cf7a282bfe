"""Weights of images: what methods record, how sets carry them, and what evaluations do with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from test_mgd3 import NAMES, context
from torch import nn

import dap
from dap.data.packing import FORMATS
from dap.errors import FormatError, OptionError
from dap.evaluation import run_protocol
from dap.evaluation.protocol import Training
from dap.evaluation.recipe import Case, Recipe
from dap.evaluation.run import named_protocol
from dap.evaluation.small import Small
from dap.evaluation.training import _drawn, _loss, _Mixed, _Set
from dap.methods import D4M, MGD3, CoDA, get_method
from dap.nets import cross_entropy
from dap.priors.dit import DiTPrior

QUICK = {"crop": 1.0, "flip": False, "jitter": 0.0, "lighting": 0.0, "epochs": 3, "batch_size": 8, "lr": 0.1}


def pixels(count=8, channels=1, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), np.uint8)


def labelled(weights=None, count=8):
    """A set of two classes in turn, whose images may have weights."""
    images = torch.from_numpy(pixels(count))
    dataset = torch.utils.data.TensorDataset(images, torch.arange(count) % 2)
    distilled = dap.load(dataset, class_map=["Zebra", "Ape"])
    tensors = {} if weights is None else {"weights": np.asarray(weights)}
    return dap.DistilledDataset(distilled.source, tensors=tensors)


@pytest.fixture
def run(tmp_path, photographs):
    """A run of mgd3 with three images a class, on photographs of two classes."""
    from conftest import build_pipeline

    prior = DiTPrior(build_pipeline(image_channels=3, names=("cat", "oak tree"), classes=2))
    return dap.distill(photographs, prior=prior, method="mgd3", ipc=3, num_inference_steps=2, out=tmp_path / "run")


@pytest.mark.parametrize("method", [MGD3(), D4M(), CoDA(n_components=2, n_neighbors=4, min_cluster_size=3)])
def test_methods_with_a_cluster_for_each_slot_record_its_size(tiny_pipeline, method):
    given = context(DiTPrior(tiny_pipeline))
    artefact = method.prepare(given)
    weights = method.weights(given, artefact)
    assert list(weights) == list(NAMES) and weights == artefact.sizes
    assert all(len(weights[name]) == given.ipc_of(index) for index, name in enumerate(weights))


@pytest.mark.parametrize("name", ["dit", "dmgd", "manifold_gd", "k_medoids", "dap_set"])
def test_other_methods_record_none(name):
    assert get_method(name).weights(None, None) == {}


def test_a_run_and_what_is_saved_of_it_have_the_weights(run, tmp_path):
    recorded = run.manifest["weights"]
    sizes = [size for name in run.class_names for size in recorded[name]]
    assert recorded == json.loads((run.path / "dap.json").read_text())["record"]["sizes"]
    expected = np.array(sizes) * np.repeat([3 / sum(recorded[name]) for name in run.class_names], 3)
    np.testing.assert_allclose(run.weights, expected, rtol=1e-6)
    np.testing.assert_allclose(dap.load(run.path).weights, expected, rtol=1e-6)
    assert run.weights.dtype == np.float32
    of_two = run.take(2).weights
    assert of_two.reshape(2, 2).mean(1) == pytest.approx([1, 1])
    assert of_two[0] / of_two[1] == pytest.approx(sizes[0] / sizes[1])
    for format in FORMATS:
        run.save(tmp_path / format, format=format, tensors={"place": np.arange(6)})
        saved = dap.load(tmp_path / format)
        by_pixels = dict(zip((image.tobytes() for image, _ in run), run.weights, strict=True))
        assert [by_pixels[image.tobytes()] for image, _ in saved] == pytest.approx(saved.weights)
        assert set(saved.tensors) == {"weights", "place"}


def test_sets_without_weights_and_wrong_ones(tmp_path):
    assert labelled().weights is None
    np.testing.assert_allclose(
        labelled([30, 1, 10, 1, 20, 1, 0, 1]).weights, [2, 1, 2 / 3, 1, 4 / 3, 1, 0, 1], rtol=1e-6
    )
    for wrong, said in (
        ([[1.0, 2.0]] * 8, r"expected a number for each of 8 images, got float64 of \(8, 2\)"),
        ([1.0, -1.0] + [1.0] * 6, "expected numbers of at least 0, got -1.0 for image 1"),
        ([1.0] * 7 + [np.nan], "expected numbers of at least 0, got nan for image 7"),
        ([0.0, 1.0] * 4, "every image of class 'Zebra' has the weight 0"),
    ):
        with pytest.raises(OptionError, match=f"weights: {said}"):
            _ = labelled(wrong).weights
        with pytest.raises(OptionError, match=f"weights: {said}"):
            labelled().save(tmp_path / "set", tensors={"weights": wrong})
    assert not (tmp_path / "set").exists()
    with pytest.raises(OptionError, match=r"weighted: the images of .* have no weights: leave it out, take a method"):
        dap.evaluate(labelled(), labelled().source, weighted=True, repeats=1)


def test_a_damaged_manifest_is_named(run):
    manifest = json.loads((run.path / "dap.json").read_text())
    manifest["weights"]["cat"].pop()
    (run.path / "dap.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match=r"run: dap.json: weights: expected one for each image, .* got \{'cat': 2"):
        dap.load(run.path)


@pytest.mark.parametrize("unit", [1.0, 1e-300, 1e300, 70000.5])
def test_weights_in_any_unit_survive_saving(tmp_path, unit):
    expected = np.array([1, 1, 3, 1, 3e-7, 1, 5e-7, 2])
    weights = expected * unit
    labelled().save(tmp_path / "set", tensors={"weights": weights})
    saved = dap.load(tmp_path / "set")
    sums = [expected[label::2].sum() / 4 for label in range(2)]
    np.testing.assert_allclose(labelled(weights).weights, expected / np.tile(sums, 4), rtol=1e-6)
    by_pixels = dict(zip((image.tobytes() for image, _ in labelled()), labelled(weights).weights, strict=True))
    found = [by_pixels[image.tobytes()] for image, _ in saved]
    np.testing.assert_allclose(saved.weights, found, rtol=1e-5)


def test_packing_some_classes_keeps_their_weights(run, tmp_path, command_line):
    command = ("pack", run.path, "--to", "parquet", "--classes", "oak tree", "--out", tmp_path / "one")
    code, _, error = command_line(*command)
    assert not code, error
    one = dap.load(tmp_path / "one")
    np.testing.assert_allclose(one.weights, run.weights[run.labels == run.class_to_idx["oak tree"]], rtol=1e-6)
    assert one.class_names == ("oak tree",) and not one.manifest


def test_the_loss_is_the_weighted_mean():
    logits = torch.randn((5, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, weights = torch.tensor([0, 1, 2, 2, 0]), torch.tensor([2.0, 0.0, 1.0, 0.5, 1.5], dtype=torch.float64)
    expected = sum(w * -(row - row.exp().sum().log())[y] for row, y, w in zip(logits, labels, weights, strict=True)) / 5
    torch.testing.assert_close(cross_entropy(logits, labels, weights), expected)
    torch.testing.assert_close(cross_entropy(logits, labels, None), cross_entropy(logits, labels, weights**0))


class Flat(nn.Module):
    """Logits that are sums of parts of the image."""

    def forward(self, images):
        return images.flatten(1).unflatten(1, (3, -1)).sum(2)


def recipe_of(protocol, **options):
    return Recipe(**named_protocol(protocol, options).constants(Case("convnet3", 4, 3, 12)))


@pytest.mark.parametrize("kind", ["hard", "teacher", "stored"])
def test_mixed_images_count_with_the_weights_of_both(kind):
    recipe = recipe_of("hard") if kind == "hard" else recipe_of("rded", temperature=2.0, second_forward=False)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((4, 1, 12, 12), generator=generator) * 0.1
    targets, others, share = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 0, 2]), 0.7
    weights = torch.tensor([[2.0, 0.5, 1.0, 0.0], [0.5, 2.0, 0.0, 1.0]])
    asked = torch.randn((4, 3), generator=generator)
    training = Training(3, "convnet3", generator, torch.device("cpu"), teacher=lambda images: asked)
    found = _loss(
        Flat(), _Mixed(inputs, targets, others, share, asked if kind == "stored" else None, weights), recipe, training
    )
    logits, expected = Flat()(inputs).double(), 0.0
    for i in range(4):
        own, pasted = weights[0, i].item(), weights[1, i].item()
        if kind == "hard":
            log_p = logits[i] - logits[i].exp().sum().log()
            expected += share * own * -log_p[targets[i]] + (1 - share) * pasted * -log_p[others[i]]
        else:
            log_p = logits[i] / 2 - (logits[i] / 2).exp().sum().log()
            q = (asked[i].double() / 2).softmax(0)
            expected += (share * own + (1 - share) * pasted) * (q * (q.log() - log_p)).sum()
    torch.testing.assert_close(found.double(), expected / 4, rtol=1e-5, atol=1e-6)
    alike = _Mixed(inputs, targets, others, share, asked, torch.ones(2, 4))
    torch.testing.assert_close(
        _loss(Flat(), alike, recipe, training), _loss(Flat(), alike._replace(weights=None), recipe, training)
    )


def test_batches_take_the_weights_along():
    recipe = recipe_of("hard", cutmix=1.0, batch_size=4)
    labels = torch.arange(12)
    data = _Set(torch.from_numpy(pixels(12, side=12)), labels, labels + 1.0, None)
    seen = 0
    for mixed in _drawn(recipe, data, torch.Generator().manual_seed(0)):
        assert torch.equal(mixed.weights[0], mixed.targets + 1.0) and torch.equal(mixed.weights[1], mixed.others + 1.0)
        assert not torch.equal(mixed.targets, mixed.others)
        part = mixed.part(torch.tensor([2, 0]))
        assert torch.equal(part.weights[0], part.targets + 1.0)
        seen += len(mixed.targets)
    assert seen == 12


def test_an_image_of_weight_zero_does_not_count():
    """The order and the augmentation of a training do not depend on the pixels."""
    labels, weights = np.arange(8) % 2, np.array([0.0, 1, 4 / 3, 1, 4 / 3, 1, 4 / 3, 1], np.float32)
    nets = []
    for changed, given in ((False, weights), (True, weights), (True, None)):
        images = pixels()
        images[0] = 255 - images[0] if changed else images[0]
        nets.append(
            Small(few_steps=4).fit(
                images,
                labels,
                classes=2,
                network="convnet3",
                generator=torch.Generator().manual_seed(0),
                device=torch.device("cpu"),
                weights=given,
            )
        )
    first, second, third = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(first, second) and not torch.allclose(second, third)


@pytest.mark.parametrize("protocol", ["small", "hard"])
def test_evaluate_trains_with_the_weights(protocol, tmp_path, monkeypatch):
    """For the set, its folder, and the one that is continued; the random real images have none."""
    from dap.evaluation import sets

    distilled, test = labelled([3, 1, 1, 1, 1, 1, 1, 1]), labelled(count=6).source
    distilled.save(tmp_path / "set", tensors={})
    given = []

    def spied(*arguments, weights, **options):
        given.append(weights)
        return run_protocol(*arguments, weights=weights, **options)

    monkeypatch.setattr(sets, "run_protocol", spied)
    options = {} if protocol == "small" else QUICK | {"size": 16}
    settings = {
        "protocol": protocol,
        "protocol_options": options,
        "real": labelled().source,
        "repeats": 1,
        "device": "cpu",
    }
    plain = dap.evaluate(distilled, test, **settings)
    assert given == [None, None] and "weighted" not in plain.to_dict()
    result = dap.evaluate(distilled, test, weighted=True, **settings)
    of_folder = dap.evaluate(tmp_path / "set", test, weighted=True, checkpoints=tmp_path / "kept", **settings)
    for real, own in (given[2:4], given[4:6]):
        assert real is None and sorted(own.tolist()) == pytest.approx([2 / 3] * 3 + [1] * 4 + [2])
    assert result.weighted == ("distilled",) and result.to_dict()["weighted"] == ["distilled"]
    assert "images count by their weights in: distilled" in result.table()
    again = dap.evaluate(tmp_path / "set", test, weighted=True, checkpoints=tmp_path / "kept", **settings)
    assert again.rows == of_folder.rows and len(given) == 6, "kept"
    other = dap.evaluate(tmp_path / "set", test, checkpoints=tmp_path / "kept", **settings)
    assert len(given) == 7 and other.weighted == (), "the training without weights is another one"


def test_the_command(tmp_path, command_line):
    labelled([3, 1, 1, 1, 1, 1, 1, 1]).save(tmp_path / "set", tensors={})
    labelled(count=6).save(tmp_path / "real")
    (tmp_path / "real/train").rename(tmp_path / "real/test")
    arguments = ("evaluate", tmp_path / "set", "--test", tmp_path / "real/test", "--repeats", "1", "--device", "cpu")
    code, output, error = command_line(*arguments, "--weighted")
    assert not code, error
    assert "images count by their weights in: distilled" in output
    code, _, error = command_line("evaluate", tmp_path / "real/test", *arguments[2:], "--weighted")
    assert code and "have no weights" in error
