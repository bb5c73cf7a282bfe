"""Jobs travel; their bars count the steps that are run; runs draw only what is missing."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import test_dap
import tiny
import torch
from conftest import grey_tree
from test_text_priors import METHODS

import dap
from dap import dataset
from dap.errors import OptionError
from dap.methods import DiT, Random
from dap.priors import NoPrior, load_prior
from dap.priors.dit import DiTPrior
from dap.run import Request, local, resolve
from dap.run.header import header_of
from dap.run.progress import Progress
from dap.sampling import SamplingSettings, steps_taken

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes of four grey 32 x 32 images."""
    return grey_tree(tmp_path_factory.mktemp("tree"), 4, ("Bag", "Dress"))


REBUILD = """
import json, pickle, sys
from dap.run.header import header_of
for job in pickle.load(sys.stdin.buffer):
    print(json.dumps(header_of(job)))
"""


def test_a_job_travels_to_a_fresh_process_with_the_same_header(tree, tiny_folder, tmp_path):
    prior = str(tiny_folder)
    index = dap.build_index(tree, prior=prior, num_inference_steps=4, out=tmp_path / "index", progress=False)
    requests = [
        Request(source=tree, prior=prior, method="dap:paper", method_options={"references": 2}, ipc=2, seed=3, eta=0.5,
                scheduler="ddim", num_inference_steps=4, classes=["Dress"], dtype=torch.bfloat16, device="cpu"),
        Request(source=str(tree), method="random", prior="/nowhere", seed=1, ipc=2),
        Request(index=index, prior=prior, method=dap.terms.Mode() + dap.terms.KernelDistance(), ipc=3),
        Request(index=str(tmp_path / "index"), source=tree, prior=prior, num_inference_steps=4),
    ]  # fmt: skip
    jobs = [resolve(request) for request in requests]
    headers = [json.loads(json.dumps(header_of(job))) for job in jobs]
    assert headers[0]["options"]["sampling"]["eta"] == 0.5 and headers[0]["options"]["dtype"] == "torch.bfloat16"
    assert headers[1]["prior"] is headers[1]["index"] is None
    assert headers[2]["index"]["sha256"] == headers[3]["index"]["sha256"] == index.hash
    data = pickle.dumps(jobs)
    assert len(data) < 10_000, "options travel, neither images nor weights"
    for job, again in zip(jobs, pickle.loads(data), strict=True):
        assert header_of(again) == header_of(job)
        assert (again.recipe, again.settings, again.classes) == (job.recipe, job.settings, job.classes)
    ended = subprocess.run(
        [sys.executable, "-c", REBUILD], input=data, capture_output=True, timeout=500, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(dap.__file__).parents[1])},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr.decode()
    assert [json.loads(line) for line in ended.stdout.splitlines()] == headers


def test_a_run_of_real_images_needs_no_prior(tree, tmp_path):
    job = resolve(Request(source=tree, method="random", prior="/nowhere", ipc=2))
    assert isinstance(job.prior, NoPrior) and not job.samples
    assert job.prior.image_shape == (1, 32, 32)
    assert job.recipe.steps_per_slot(job.context()) == 0
    assert len(dap.distill(tree, method="random", prior="/nowhere", ipc=2, out=tmp_path / "out")) == 4
    with pytest.raises(OptionError, match="'prior'"):
        job.context().num_steps()


@dataclass(frozen=True)
class Forgetful(DiT):
    """It samples from the prior and does not say so."""

    name: ClassVar[str] = "forgetful"
    needs: ClassVar[tuple[str, ...]] = ()


def test_a_method_that_samples_without_saying_so_is_told_what_to_add(tree, tmp_path):
    with pytest.raises(OptionError, match="add 'prior' to the needs of the method"):
        dap.distill(tree, method=Forgetful(), ipc=1, out=tmp_path / "out", progress=False)


def test_heun_runs_99_steps_for_50(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    given = test_dap.context(prior, scheduler="heun", num_inference_steps=50)
    assert DiT().steps_per_slot(given) == given.num_steps() == steps_taken(prior, given.settings) == 99
    assert steps_taken(prior, dataclasses.replace(given.settings, scheduler="ddim")) == 50
    assert DiT().steps_per_slot(dataclasses.replace(given, settings=SamplingSettings(num_inference_steps=7))) == 7


@pytest.fixture
def totals(monkeypatch):
    """The totals of the progress bars that runs open."""
    seen = []

    class Recorded(Progress):
        def making(self, title, total):
            seen.append(total)
            return super().making(title, total)

    monkeypatch.setattr(local, "Progress", Recorded)
    return seen


REAL = {"random": {}, "herding": {}, "k_center": {}}
CANDIDATES = {"dap_set:several": {"references": 4, "candidates": 3}}


@pytest.mark.parametrize("scheduler", [None, "heun"])
@pytest.mark.parametrize("method", METHODS | REAL | CANDIDATES)
def test_the_total_of_the_bar_is_the_number_of_steps_that_the_callback_sees(
    method, scheduler, totals, photographs, tmp_path
):
    counted = []
    dap.distill(
        photographs, prior=load_prior(tiny.stable_diffusion()), out=tmp_path / "out", ipc=2, num_inference_steps=4,
        method=method.split(",")[0].removesuffix(":several"), scheduler=scheduler, progress=False,
        method_options=(METHODS | REAL | CANDIDATES)[method],
        callback_on_step_end=lambda *call: counted.append(len(call[3]["latents"])) or call[3],
    )  # fmt: skip
    assert totals == [sum(counted)]
    assert (sum(counted) > 0) == (method not in REAL and method != "k_medoids")


def test_a_finished_run_draws_nothing_again_and_a_missing_sheet_is_drawn(tree, tmp_path, monkeypatch):
    options = {"method": "random", "ipc": 2, "out": tmp_path / "out", "progress": False}
    dap.distill(tree, **options)
    files = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")}
    sheet = tmp_path / "out" / "contact_sheet.png"
    drawn = sheet.read_bytes()

    def refuse(*_arguments):
        raise AssertionError("the run is finished")

    monkeypatch.setattr(Random, "prepare", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "source_sheet", refuse)
        assert len(dap.distill(tree, **options)) == 4
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")} == files
    sheet.unlink()
    dap.distill(tree, **options)
    assert sheet.read_bytes() == drawn
    assert {
        path for path in files if path != sheet and path.is_file() and path.stat().st_ino != files[path][0]
    } == set()


def test_growth_that_is_refused_leaves_the_folder_as_it_was(tree, tmp_path):
    options = {"method": "random", "out": tmp_path / "out", "progress": False}
    dap.distill(tree, ipc=2, **options)
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert tmp_path / "out" / "contact_sheet.png" in files
    with pytest.raises(OptionError, match="has 4 images, fewer than ipc=5"):
        dap.distill(tree, ipc=5, **options)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
