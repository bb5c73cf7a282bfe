"""Several processes that build one index: groups are dealt out, those of dead workers are taken over, same bytes."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import dap
from dap.data.from_labels import source_from_labels
from dap.errors import OptionError, StoppedError
from dap.features import build as building
from dap.priors.dit import DiTPrior
from dap.stopping import stop_at_signals
from dap.storage import claims
from dap.storage.claims import Claims
from dap.storage.files import SHARED

NAMES, COUNTS = ("Dress", "Bag", "T-shirt/top"), (9, 2, 13)
OPTIONS = {"num_inference_steps": 4, "timesteps": (500, 250), "seed": 5, "progress": False}
GROUPS = 3 + 1 + 4


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", name="prior")
def fixture_of_prior(make_pipeline):
    return DiTPrior(make_pipeline(), name="tiny")


@pytest.fixture(name="build")
def fixture_of_build(prior, tmp_path, monkeypatch):
    """Builds an index in groups of four rows, and counts how often each is encoded."""
    monkeypatch.setattr(sys.modules["dap.index.spec"], "GROUP_ROWS", 4)
    pixels = np.random.default_rng(0).integers(0, 256, (sum(COUNTS), 32, 32), np.uint8)
    labels = np.repeat(np.arange(len(NAMES)), COUNTS)
    source = source_from_labels("noise", labels, NAMES, lambda i: Image.fromarray(pixels[i]), prefix="n/", digest=str)
    encoded = Counter()
    encode = building.encode_images

    def counted(prior, images):
        encoded[images.sum().item()] += 1
        return encode(prior, images)

    monkeypatch.setattr(building, "encode_images", counted)

    def call(out, **options):
        return dap.build_index(source, out=tmp_path / out, prior=prior, **OPTIONS, **options)

    call.encoded = encoded
    return call


@pytest.fixture(name="ranks")
def fixture_of_ranks(monkeypatch):
    """This process is one of two that torchrun has started."""
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)


def test_a_worker_that_joins_leaves_what_others_have_and_takes_over_from_the_stalled(
    build, ranks, tmp_path, monkeypatch
) -> None:
    """One worker stalls in its third group, a dead one has claimed the last; a second worker does the rest."""
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "1")
        build("alone")
    build.encoded.clear()
    (tmp_path / "index" / SHARED).mkdir(parents=True)
    (tmp_path / "index" / SHARED / "group-2-12").write_text("far.away-1-0123abcd")
    features, calls = building.noised_features, []

    def joined(*arguments, **options):
        calls.append(options["timestep"])
        if len(calls) == 5:
            with Claims(tmp_path / "index" / SHARED) as other:
                assert not other.take("group-0-8")
            build("index")
            assert not (tmp_path / "index" / "ledger.jsonl").exists()
        return features(*arguments, **options)

    monkeypatch.setattr(building, "noised_features", joined)
    monkeypatch.setattr(claims, "PATIENCE", 0.3)
    monkeypatch.setattr(claims, "BEAT", 1e6)
    build("index")
    assert contents(tmp_path / "index") == contents(tmp_path / "alone")
    assert not (tmp_path / "index" / SHARED).exists()
    assert sorted(build.encoded.values()) == [1] * (GROUPS - 1) + [2]  # only that of the stalled worker twice


def test_a_worker_that_is_to_end_ends_with_its_group_and_the_same_call_continues(build, ranks, tmp_path) -> None:
    features = building.noised_features

    def signalled(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return features(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch, stop_at_signals():
        patch.setattr(building, "noised_features", signalled)
        with pytest.raises(StoppedError, match="SIGTERM"):
            build("index")
    assert sum(build.encoded.values()) == 1
    build("index")
    assert list(build.encoded.values()) == [1] * GROUPS


def test_workers_and_ranks_are_one_or_the_other(build, ranks) -> None:
    with pytest.raises(OptionError, match="has started 2 processes"):
        build("index", workers=2)


def test_what_cannot_be_sent_to_another_process_is_named(build, tmp_path) -> None:
    with pytest.raises(OptionError, match="cannot be sent to another process"):
        build("index", workers=2)
    assert not (tmp_path / "index").exists()
