"""``dap.distill`` from an index: given or its own, with and without the source, and every index that does not fit."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from indexed_runs import NAMES, STEPS, fixture_of_cache, fixture_of_run, fixture_of_tree  # noqa: F401 - fixtures
from PIL import Image

import dap
from dap.cli.main import main
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import DapError, OptionError, RunMismatchError
from dap.features import Tap, encode_images, noised_features
from dap.methods import DAP, Context, Slot, Unit
from dap.methods.dap import KernelDistanceTerm
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings, StepState, Window, sample
from dap.selection import random_per_class
from dap.storage.cache import cache_folder, cache_size


@pytest.fixture(scope="module")
def index(tree, tiny_folder, tmp_path_factory):
    """An index of the tree with all steps, at the block that the method takes."""
    out = tmp_path_factory.mktemp("index") / "i"
    return dap.build_index(tree, prior=str(tiny_folder), num_inference_steps=STEPS, out=out, progress=False)


def context(source, prior, index=None, **settings):
    images = open_source(source)
    chosen = SamplingSettings(**{"num_inference_steps": STEPS} | settings)
    return Context(
        images, build_class_map(images, prior.labels_of(images.class_names)), prior, chosen, 5, 3, 32, 1, index=index
    )


UNIT = Unit(0, (Slot(1, 0), Slot(0, 1), Slot(1, 2)))


def references_in_memory(given, method):
    """The references as they were computed before there was an index: float32 from end to end, nothing on disk."""
    prior, tap = given.prior, Tap(method.block or 1, method.pooling)
    scheduler = prior.scheduler(given.settings.scheduler, given.settings.num_inference_steps)
    timesteps = [int(t) for t in scheduler.timesteps]
    window = Window(method.start, method.stop)
    guided = [step for step in range(len(timesteps)) if window.contains(step, len(timesteps))]
    chosen = random_per_class(given.source, method.references, given.seed)
    features = {}
    for number, entry in enumerate(given.classes):
        indices = [int(i) for i in chosen if given.source.labels[i] == number]
        latents = encode_images(prior, given.images(indices))
        for step in guided:
            features[step, entry.prior_label] = noised_features(
                prior, latents, [given.source.ids[i] for i in indices], label=entry.prior_label, tap=tap,
                scheduler=scheduler, timestep=timesteps[step], seed=given.seed, shared_noise=method.noise == "shared",
            )  # fmt: skip
    return KernelDistanceTerm(
        tap=tap, references=features, kernel=method.kernel, taps=tap.blocks, window=window, scale=method.scale,
        at=method.at, normalise=method.normalise,
    )  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [DAP(), DAP(kernel="rbf", references=3), DAP(pooling="flat", block=2, noise="shared"), DAP(start=0.2, stop=0.6)],
    ids=str,
)
@pytest.mark.parametrize("cached_before", [False, True])
def test_without_an_index_the_bits_are_those_of_references_in_memory(tree, tiny_pipeline, method, cached_before):
    given = context(tree, DiTPrior(tiny_pipeline))
    if cached_before:
        method.prepare(given)
    ours = method.make(given, UNIT, method.prepare(given))
    term = references_in_memory(given, method)
    expected = sample(given.prior, given.labels(UNIT), given.generators(UNIT), settings=given.settings, terms=[term])
    assert torch.equal(ours, expected)
    plain = sample(given.prior, given.labels(UNIT), given.generators(UNIT), settings=given.settings)
    assert (ours - plain).abs().amax((1, 2, 3)).min() > 1e-4


def test_second_stage_touches_no_image(tree, tiny_folder, run, tmp_path):
    source = Path(shutil.copytree(tree, tmp_path / "source"))
    index = dap.build_index(
        source, prior=str(tiny_folder), num_inference_steps=STEPS, timesteps=2, out=tmp_path / "i", progress=False
    )
    shutil.rmtree(source)
    first = run(index=tmp_path / "i", out="a", ipc=1, method_options={"scale": 5.0})
    second = run(index=index, out="b", ipc=3, method_options={"kernel": "rbf", "references": 3})
    third = run(index=index, out="c", ipc=3, method="dit")
    assert [len(each) for each in (first, second, third)] == [2, 6, 6]
    assert (second.to_torch()[0].int() - third.to_torch()[0].int()).abs().max() > 0
    for each in (first, second, third):
        assert each.class_names == NAMES
        assert each.manifest["source"] == {"name": str(source), "identity": index.spec.source["identity"], "images": 14}
        assert each.manifest["index"] == {"sha256": index.hash} | index.spec.to_json()
    assert first.manifest["record"]["index"] == index.hash
    assert {path.name for path in cache_folder().iterdir()} <= {"hashed", "hashes"}  # of the weights
    assert run(index=index, out="d", classes=["Dress"]).class_names == ("Dress",)
    for method in ("random", "ld3m:tiny", "dap_networks"):
        with pytest.raises(OptionError, match="needs the images, and an index has none"):
            run(
                index=index,
                out="e",
                method=method,
                method_options={"strength": 1.0} if method == "dap_networks" else {},
            )
        assert not (tmp_path / "e").exists()


def test_an_index_of_everything_gives_what_its_source_gives(tree, index, tiny_pipeline, tmp_path):
    prior, method = DiTPrior(tiny_pipeline), DAP(references=4, scale=3.0)
    exact = dap.build_index(
        tree,
        prior=prior,
        num_inference_steps=STEPS,
        seed=5,
        storage_dtype="float32",
        out=tmp_path / "i",
        progress=False,
    )
    given, own = context(tree, prior, exact), context(tree, prior)
    mine, theirs = (method.prepare(each) for each in (given, own))
    assert mine.ids == theirs.ids
    assert set(mine.features) == set(theirs.features) and len(mine.features) == STEPS * 2
    for key, rows in theirs.features.items():
        torch.testing.assert_close(mine.features[key], rows, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(method.make(given, UNIT, mine), method.make(own, UNIT, theirs), rtol=0, atol=1e-2)


def test_guidance_acts_at_the_steps_of_the_index(tree, tiny_pipeline, tmp_path):
    prior = DiTPrior(tiny_pipeline)
    part = dap.build_index(
        tree, prior=prior, num_inference_steps=STEPS, timesteps=[500, 0], out=tmp_path / "i", progress=False
    )
    latents = {}

    def keep(name):
        def call(_prior, step, _timestep, tensors):
            latents[name, step] = tensors["latents"].clone()
            return tensors

        return call

    for name, scale in (("guided", 5.0), ("plain", 0.0)):
        given = dataclasses.replace(context(tree, prior, part, scheduler=None), callback_on_step_end=keep(name))
        method = DAP(scale=scale)
        method.make(given, UNIT, method.prepare(given))
    same = [torch.equal(latents["guided", step], latents["plain", step]) for step in range(STEPS)]
    assert same == [True, False, False, False]  # at steps of 750, 500, 250, 0
    artefact = DAP().prepare(given)
    assert sorted({step for step, _ in artefact.features}) == [1, 3]
    early = DAP(stop=0.5).prepare(given)
    assert early.steps == {1} and {step for step, _ in early.features} == {1, 3}, "the last one orders the slots"
    with pytest.raises(OptionError, match=r"has the timesteps 500, 0, and this run is guided at 750: widen"):
        DAP(stop=0.2).prepare(given)


def test_a_step_reads_the_rows_of_its_references(index, tree, tiny_pipeline):
    given = context(tree, DiTPrior(tiny_pipeline), index)
    artefact = DAP(references=3).prepare(given)
    for number, name in enumerate(NAMES):
        rows = [index.ids(name).index(each) for each in artefact.ids[name]]
        assert len(rows) == 3
        found = artefact.features[2, given.classes[number].prior_label]
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found.numpy(), index.features(name, 250)[rows].astype(np.float32))


def test_source_beside_an_index_may_come_and_go(tree, index, run, tmp_path):
    def stop(_prior, step, _timestep, tensors):
        if step == 2:
            raise KeyboardInterrupt
        return tensors

    expected = run(tree, "a", index=index)
    with pytest.raises(KeyboardInterrupt):
        run(tree, "b", index=index, callback_on_step_end=stop)
    assert torch.equal(run(index=index, out="b").to_torch()[0], expected.to_torch()[0])
    found = [dap.load(tmp_path / name).manifest | {"seconds": 0} for name in "ab"]
    assert found[0] == found[1]
    assert len(run(tree, "r", index=index, method="random")) == 4


def test_a_run_is_not_continued_with_another_index(tree, index, run, tiny_folder, tmp_path):
    run(index=index)
    other = dap.build_index(
        tree, prior=str(tiny_folder), num_inference_steps=STEPS, timesteps=3, out=tmp_path / "i", progress=False
    )
    with pytest.raises(RunMismatchError, match=r"index\.sha256"):
        run(index=other)
    with pytest.raises(RunMismatchError, match=r"index"):
        run(tree)


REFUSED = {
    "block": ({"method_options": {"block": 2}}, "block is 1 there, 2 here"),
    "pooling": ({"method_options": {"pooling": "flat"}}, "pooling is 'sketch1024' there, 'flat' here"),
    "noise": ({"method_options": {"noise": "shared"}}, "noise is 'own' there, 'shared' here"),
    "scheduler": ({"scheduler": "ddim"}, "scheduler is 'DDPMScheduler' there, 'DDIMScheduler' here"),
    "steps": ({"num_inference_steps": 5}, "num_inference_steps is 4 there, 5 here"),
    "class": ({"classes": ["Dres"]}, "did you mean 'Dress'"),
    "no class": ({"classes": []}, "classes= is empty"),
    "missing": ({"index": "nowhere"}, "nowhere"),
    "neither": ({"index": None}, "source: expected real images to distil, or an index"),
    "other source": ({"source": "fashion-mini"}, "its images changed, or it is another one"),
    "other prior": ({"prior": "fashion-dit", "num_inference_steps": 4}, "does not fit this run (prior is"),
    "other prior, dit": ({"prior": "fashion-dit", "method": "dit"}, "does not fit this run (prior is"),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_an_index_that_does_not_fit_is_refused_with_the_reason(index, run, tmp_path, change, said):
    with pytest.raises(DapError) as caught:
        run(**{"index": index} | change)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_an_index_is_refused(tree, tiny_folder, run, tmp_path):
    part = dap.build_index(
        tree, prior=str(tiny_folder), num_inference_steps=STEPS, shard="1/2", out=tmp_path / "p", progress=False
    )
    with pytest.raises(OptionError, match="is part 1 of 2: join the parts with dap index merge"):
        run(index=part)


def test_a_changed_source_is_refused(tree, index, run, tmp_path):
    source = Path(shutil.copytree(tree, tmp_path / "source"))
    run(source, "fine", index=index)
    Image.new("L", (32, 32)).save(source / "Bag" / "0.png")
    with pytest.raises(OptionError, match="its images changed"):
        run(source, "out", index=index)


def test_command_line(tree, index, tiny_folder, tmp_path, monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["dap", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            return ended.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    common = ["--prior", tiny_folder, "--ipc", 1, "--num-inference-steps", STEPS]
    code, out, _ = command("distill", "--index", index.path, *common, "--out", tmp_path / "a")
    assert code == 0 and out.startswith(f"2 images in {tmp_path}/a/train")
    assert dap.load(tmp_path / "a").manifest["options"]["method"]["name"] == "dap_set"  # the default
    code, out, err = command("distill", *common, "--out", tmp_path / "b")
    assert (code, out) == (2, "") and "or --index with an index of them" in err
    assert command("distill", tree, *common, "--out", tmp_path / "b")[0] == 0
    size = f"{cache_size() / 1e6:.1f} MB"
    assert command("cache", "info")[1].startswith(f"{size} in {cache_folder()}\n  indexes ")
    assert f"{size} in {cache_folder()}" in command("info")[1]
    assert command("cache", "clear")[1] == f"{size} deleted from {cache_folder()}\n"
    assert command("cache", "info")[1] == f"0.0 MB in {cache_folder()}\n"


def test_public_names():
    assert {"build_index", "open_index"} <= set(dir(dap))
    assert dap.open_index is dap.index.open_index


def test_class_map_is_the_same_with_and_without_the_source(run, tiny_folder, tmp_path):
    """Also where the source has ids of its own for its classes."""
    index = dap.build_index(
        "fashion-mini", prior=str(tiny_folder), classes=NAMES, max_per_class=2, num_inference_steps=STEPS,
        out=tmp_path / "i", progress=False,
    )  # fmt: skip
    for source in ("fashion-mini", None):
        found = run(source, str(source), index=index, ipc=1).manifest["class_map"]
        assert found == [
            {"name": "Dress", "source_id": "Dress", "prior_label": 3, "folder": "Dress"},
            {"name": "Bag", "source_id": "Bag", "prior_label": 8, "folder": "Bag"},
        ]


@pytest.mark.parametrize("rule", ["herding", "weighted_herding", "thinning", "k_medoids"])
def test_references_are_chosen_at_each_step_of_the_index(tree, index, tiny_pipeline, rule):
    """The energy of the loop is that of the chosen rows of each step, with their weights, by the definition."""
    prior = DiTPrior(tiny_pipeline)
    given, method = context(tree, prior, index), DAP(selection=rule, references=3)
    artefact = method.prepare(given)
    term = method.term(given, Unit(0, ()), artefact)
    chosen = set()
    for step, timestep in enumerate(index.timesteps):
        for name, label in (("Bag", 8), ("Dress", 3)):
            ids = artefact.ids[name][timestep]
            rows = [index.ids(name).index(each) for each in ids]
            assert len(set(rows)) == 3
            chosen.add((name, tuple(rows)))
            features = np.asarray(index.features(name, timestep))[rows].astype(np.float64)
            np.testing.assert_array_equal(term.references[step, label].double().numpy(), features)
            weights = artefact.weights(given).get((step, label))
            assert (weights is not None) == (rule == "weighted_herding")
            shares = np.full(3, 1 / 3) if weights is None else weights.double().numpy()
            assert abs(shares.sum() - 1) < 1e-6
            tokens = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(step))
            state = StepState(
                step, STEPS, timestep, 1.0, 0.0, 0.0, torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8),
                torch.zeros(2, 4, 8, 8), torch.tensor([label, label]), {artefact.tap.block: tokens},
            )  # fmt: skip
            pooled = tokens.double().flatten(1).numpy()
            expected = [
                sum(w * np.linalg.norm(row - f) for w, f in zip(shares, features, strict=True)) for row in pooled
            ]
            np.testing.assert_allclose(term.energy(state).numpy(), expected, 1e-5)
    assert len(chosen) > 2  # not the same at every step
    recorded = method.record(given, artefact)["references"]
    assert recorded["Bag"][index.timesteps[0]] == artefact.ids["Bag"][index.timesteps[0]]
    assert torch.isfinite(method.make(given, UNIT, artefact)).all()


def test_choosing_by_features_needs_an_index(tree, run):
    with pytest.raises(OptionError, match="selection: 'herding' chooses among the features of a class, which an index"):
        run(tree, method=DAP(selection="herding"))
    with pytest.raises(OptionError, match="selection"):
        DAP(selection="herdin")
