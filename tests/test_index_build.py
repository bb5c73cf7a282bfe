"""Feature indexes as they are built: what is in them, killed and continued, dealt out, from kept latents."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from PIL import Image

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.from_labels import source_from_labels
from dap.errors import DapError, FormatError, OptionError, RunMismatchError
from dap.features import choose_timesteps
from dap.index import IndexWriter, merge, open_index
from dap.methods import Context
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings
from dap.selection import random_per_class

NAMES = ("Dress", "Bag", "T-shirt/top")  # the prior's labels 3, 8, 0
COUNTS = (9, 2, 13)
STEPS = (500, 250)
OPTIONS = {"num_inference_steps": 4, "timesteps": STEPS, "seed": 5, "progress": False}


def noise_source(broken=False, seed=0):
    """Grey noise; a broken one has the same identity and no images."""
    pixels = np.random.default_rng(seed).integers(0, 256, (sum(COUNTS), 32, 32), np.uint8)

    def load(index):
        if broken:
            raise AssertionError("the images must not be read")
        return Image.fromarray(pixels[index])

    labels = np.repeat(np.arange(len(NAMES)), COUNTS)
    return source_from_labels("noise", labels, NAMES, load, prefix="n/", digest=lambda: f"noise {seed}")


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Groups of four rows, so that a class of a few images has several."""
    for module in ("spec", "merge"):  # dap.index.merge itself is the function
        monkeypatch.setattr(sys.modules[f"dap.index.{module}"], "GROUP_ROWS", 4)


@pytest.fixture(scope="module")
def prior(make_pipeline):
    return DiTPrior(make_pipeline(), name="tiny")


@pytest.fixture
def build(prior, tmp_path):
    def call(out="index", source=None, **options):
        return dap.build_index(source or noise_source(), out=tmp_path / out, **{"prior": prior} | OPTIONS | options)

    return call


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_features_are_those_of_the_stored_latents(build, prior, make_pipeline):
    index = build(block=2)
    assert (index.timesteps, [each.name for each in index.classes]) == (STEPS, list(NAMES))
    assert [(each.label, each.rows) for each in index.classes] == list(zip((3, 8, 0), COUNTS, strict=True))
    pipeline, source = make_pipeline(), noise_source()
    transformer = oracles.double(pipeline.transformer.eval())
    for number, each in enumerate(index.classes):
        own = source.of_class(number)
        assert list(index.ids(each.name)) == [source.ids[i] for i in own]
        latents = torch.from_numpy(np.array(index.latents(each.name))).double()
        images = torch.from_numpy(source.images(own, size=32, channels=1))
        torch.testing.assert_close(latents, prior.encode(images).double(), rtol=1e-3, atol=1e-5)
        for t in STEPS:
            cumulative = float(pipeline.scheduler.alphas_cumprod[t])
            names = index.ids(each.name)
            noise = [torch.randn((4, 8, 8), generator=rng.generator(5, "feature", name, t)) for name in names]
            noised = cumulative**0.5 * latents + (1 - cumulative) ** 0.5 * torch.stack(noise).double()
            with torch.no_grad():
                tokens = oracles.tokens(transformer, noised, t, torch.full((len(own),), each.label), 2)
            found = index.features(each.name, t)
            assert found.dtype == np.float16
            torch.testing.assert_close(torch.from_numpy(found).double(), tokens.flatten(1), rtol=6e-4, atol=2e-5)
    index.verify()


def test_the_same_call_again_computes_nothing(build):
    first = contents(build().path)
    assert contents(build(source=noise_source(broken=True)).path) == first


@pytest.mark.parametrize("pooling", ["mean", "flat", "grid2", "sketch50"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_kept_latents_give_the_bytes_of_the_images(build, pooling, dtype):
    kept = build("kept", timesteps=1)
    other = {"block": 3, "pooling": pooling, "timesteps": 4, "noise": "shared", "seed": 6, "storage_dtype": dtype}
    fresh = build("fresh", **other)
    again = build("again", source=noise_source(broken=True), latents=kept.path, **other)
    assert contents(again.path) == contents(fresh.path)
    assert fresh.features("Dress", 0).shape == (9, {"mean": 16, "flat": 256, "grid2": 64, "sketch50": 50}[pooling])


def test_parts_join_to_the_whole(build, tmp_path):
    whole = build()
    parts = [build(f"part{i}", shard=f"{i}/3") for i in (3, 1, 2)]
    assert sum(len(part) for part in parts) == sum(COUNTS)
    assert contents(merge([part.path for part in parts], tmp_path / "joined").path) == contents(whole.path)


def test_classes_and_images_can_be_fewer(build, prior):
    whole, source = build("whole"), noise_source()
    index = build(classes=["Dress", "T-shirt/top"], max_per_class=5)
    assert [(each.name, each.rows) for each in index.classes] == [("Dress", 5), ("T-shirt/top", 5)]
    order = list(whole.ids("Dress"))
    places = [order.index(each) for each in index.ids("Dress")]
    assert places == sorted(places)
    np.testing.assert_allclose(index.latents("Dress"), whole.latents("Dress")[places], rtol=2e-3, atol=1e-5)
    drawn = dap.methods.DAP(references=5).prepare(context(source, index, prior)).ids["Dress"]
    assert sorted(drawn) == sorted(index.ids("Dress"))
    assert {source.ids[i] for i in random_per_class(source, {"Dress": 5}, 5)} == set(drawn)
    assert set(build("other", max_per_class=5, seed=6).ids("Dress")) != set(drawn)


def context(source, index, prior):
    images = source.subset([each.name for each in index.classes])
    entries = build_class_map(images, prior.labels)
    return Context(images, entries, prior, SamplingSettings(num_inference_steps=4), 5, 1, 32, 1, index=index)


KILLER = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import test_index_build as t
from conftest import build_pipeline
import dap.index.spec
dap.index.spec.GROUP_ROWS = 4
prior, source, folder = t.DiTPrior(build_pipeline(), name="tiny"), t.noise_source(), sys.argv[2]
def build(out):
    t.dap.build_index(source, out=f"{folder}/{out}", prior=prior, **t.OPTIONS)
build("warm")
start = time.monotonic()
build("undisturbed")
seconds = time.monotonic() - start
draw, kills, out = random.Random(1), 0, 0
while kills < 20:
    child = os.fork()
    if child == 0:
        build(out)
        os._exit(0)
    time.sleep(draw.uniform(0.05, 0.9) * seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        kills += 1
    else:
        assert status == 0, status
        out += 1
build(out)
print(kills, out + 1)
"""


def test_killed_at_twenty_random_moments_ends_with_the_same_bytes(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", KILLER, str(Path(__file__).parent), str(tmp_path)], capture_output=True, text=True,
        timeout=600, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(dap.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    kills, built = map(int, ended.stdout.split()[-2:])
    assert kills == 20
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == 1 + 3 * len(NAMES)
    for number in range(built):
        assert contents(tmp_path / str(number)) == expected


class Killed(BaseException):
    """Nothing of dap's may catch this."""


@pytest.mark.parametrize("at", range(1, 8))
def test_stopped_between_groups_computes_only_what_is_missing(build, tmp_path, monkeypatch, at):
    expected = contents(build("expected").path)
    write, written = IndexWriter.write, []

    def stop(self, name, start, *args):
        if len(written) == at:
            raise Killed
        write(self, name, start, *args)
        written.append((name, start))

    monkeypatch.setattr(IndexWriter, "write", stop)
    with pytest.raises(Killed):
        build()
    with pytest.raises(FormatError, match=r"index\.json"):
        open_index(tmp_path / "index")
    done, at = list(written), 99
    assert contents(build().path) == expected
    assert len(written) == len(set(written)) == 3 + 1 + 4
    assert written[: len(done)] == done


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"block": 3}, "block"),
        ({"pooling": "flat"}, "pooling"),
        ({"timesteps": (500,)}, "timesteps"),
        ({"noise": "shared"}, "noise"),
        ({"seed": 6}, "seed"),
        ({"storage_dtype": "float32"}, "dtype"),
        ({"num_inference_steps": 8}, "num_inference_steps"),
        ({"scheduler": "ddim"}, "scheduler"),
        ({"shard": "1/2"}, "classes.Dress.rows: there 9, now 5"),
        ({"source": noise_source(seed=1)}, "source.identity"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_other_options_in_the_same_folder_are_refused_by_name(build, tmp_path, monkeypatch, change, named, finished):
    if finished:
        build()
    else:
        with monkeypatch.context() as patch:
            patch.setattr("dap.index.IndexWriter.finish", lambda self: None)
            build()
    before = contents(tmp_path / "index")
    with pytest.raises(RunMismatchError) as caught:
        build(**change)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert contents(tmp_path / "index") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"block": 4}, "block: expected 1 to 3, got 4"),
        ({"pooling": "grid3"}, "grid3 does not divide the prior's tokens, which are 4 x 4"),
        ({"pooling": "sketch"}, "unknown pooling 'sketch'; did you mean 'sketch256'"),
        ({"timesteps": 0}, "timesteps: expected a whole number from 1 to 4, got 0"),
        ({"timesteps": (500, 3)}, "750, 500, 250, 0; got 3"),
        ({"timesteps": ()}, "timesteps"),
        ({"noise": "none"}, "noise"),
        ({"storage_dtype": "bfloat16"}, "storage_dtype 'bfloat16'"),
        ({"max_per_class": 0}, "max_per_class: expected a whole number of at least 1"),
        ({"classes": ["Dres"]}, "did you mean 'Dress'"),
        ({"shard": "0/2"}, 'shard: expected "i/n"'),
        ({"shard": "3/2"}, "shard"),
        ({"shard": "a"}, "shard"),
        ({"scheduler": "dpm+"}, "did you mean 'dpm++'"),
        ({"source": "nowhere"}, "cannot open the source"),
        ({"latents": "nowhere"}, "nowhere"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_options_are_named_and_leave_nothing_behind(build, tmp_path, change, said):
    with pytest.raises(DapError) as caught:
        build(**change)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()


def test_latents_of_other_images_or_another_prior_are_refused(build, make_pipeline):
    kept = build("kept", max_per_class=3)
    with pytest.raises(OptionError, match=r"lacks 6 of the 9 images of class 'Dress', such as 'n/"):
        build(latents=kept)
    with pytest.raises(OptionError, match="unknown class 'Dress'"):
        build(latents=build("few", classes=["Bag"]))
    with pytest.raises(OptionError, match="its images changed, or it is another one"):
        build(source=noise_source(seed=1), latents=kept)
    with pytest.raises(OptionError, match=r"does not fit this run \(prior is"):
        build(prior=DiTPrior(make_pipeline(seed=7)), latents=kept)


def test_says_what_it_takes(build, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="dap"):
        build()
    before, after = [record.getMessage() for record in caplog.records if record.name == "dap.features.build"]
    rows, numbers = sum(COUNTS), 2 * 256 + 4 * 8 * 8
    stated = float(re.search(r"24 images, 2 timesteps, 256 numbers each: ([0-9.]+) MB", before)[1])
    assert stated == pytest.approx(rows * numbers * 2 / 1e6, abs=0.06)
    assert re.search(r"about \d+ s for 24 images, by the first 4", after)


def test_choice_of_timesteps():
    steps = [980, 960, 940, 920, 900, 880, 860]
    assert choose_timesteps(steps, 1) == (980,)
    assert choose_timesteps(steps, 3) == (980, 940, 900)
    assert choose_timesteps(steps, len(steps)) == tuple(steps)
    assert choose_timesteps([5, 5, 3], 2) == (5, 3)
    for wanted in (5000, len(steps) + 1, 0, -1, 2.5, True, None, [], [981], [980.5], ["980"]):
        with pytest.raises(OptionError, match="timesteps"):
            choose_timesteps(steps, wanted)
    assert choose_timesteps(steps, [860, 980]) == (980, 860)


def test_command_line(command_line, tiny_folder, tmp_path):
    draw = np.random.default_rng(0)
    for name in ("Bag", "Dress"):
        (tmp_path / "source" / name).mkdir(parents=True)
        for number in range(5):
            image = Image.fromarray(draw.integers(0, 256, (32, 32), np.uint8))
            image.save(tmp_path / "source" / name / f"{number}.png")
    common = ["index", "build", tmp_path / "source", "--prior", tiny_folder, "--num-inference-steps", 4]
    common += ["--timesteps", "750,0", "--pooling", "grid2"]
    code, out, _ = command_line(*common, "--out", tmp_path / "i")
    assert (code, out) == (0, f"10 images in {tmp_path}/i\n")
    expected = dap.build_index(
        tmp_path / "source", prior=str(tiny_folder), num_inference_steps=4, timesteps=[750, 0], pooling="grid2",
        out=tmp_path / "j", progress=False,
    )  # fmt: skip
    assert contents(tmp_path / "i") == contents(expected.path)
    code, out, _ = command_line("index", "info", tmp_path / "i")
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert {name: rows[name] for name in ("block", "pooling", "timesteps", "images", "classes")} == {
        "block": "1", "pooling": "grid2", "timesteps": "750, 0", "images": "10", "classes": "2, of 5 to 5 images",
    }  # fmt: skip
    assert command_line("index", "verify", tmp_path / "i")[:2] == (
        0,
        f"{tmp_path}/i: all 10 images are as they were written\n",
    )
    for part in (1, 2):
        assert command_line(*common, "--out", tmp_path / f"p{part}", "--shard", f"{part}/2")[0] == 0
    assert command_line("index", "merge", tmp_path / "p2", tmp_path / "p1", "--out", tmp_path / "m")[:2] == (
        0, f"10 images in {tmp_path}/m\n",
    )  # fmt: skip
    assert contents(tmp_path / "m") == contents(expected.path)
    file = tmp_path / "i" / "Bag" / "features.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    code, out, err = command_line("index", "verify", tmp_path / "i")
    assert (code, out) == (2, "") and "features.safetensors" in err and err.count("\n") == 1
    code, _, err = command_line(*common[:-2], "--out", tmp_path / "k", "--timesteps", "a")
    assert code == 2 and "--timesteps: expected 8, or 980,500,20, got 'a'" in err
