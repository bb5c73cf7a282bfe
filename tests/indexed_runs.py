"""Short runs of ``dap`` on a small tree, whose references come from an index or from the cache."""

from __future__ import annotations

import pytest
from conftest import grey_tree

import dap

NAMES = ("Bag", "Dress")  # the prior's labels 8 and 3
STEPS = 4  # of timesteps 750, 500, 250, 0


@pytest.fixture(autouse=True, name="cache")
def fixture_of_cache(tmp_path_factory, monkeypatch):
    """A cache of each test's own."""
    folder = tmp_path_factory.mktemp("cache") / "dap"
    monkeypatch.setenv("DAP_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module", name="tree")
def fixture_of_tree(tmp_path_factory):
    """Two classes of seven grey 32 x 32 images."""
    return grey_tree(tmp_path_factory.mktemp("tree"), 7, NAMES)


@pytest.fixture(name="run")
def fixture_of_run(tiny_folder, tmp_path):
    """Distils the tree, or another source, by four steps of the tiny prior."""

    def distill(source=None, out="out", **options):
        defaults = {
            "method": "dap", "prior": str(tiny_folder), "ipc": 2, "num_inference_steps": STEPS, "progress": False,
        }  # fmt: skip
        return dap.distill(source, out=tmp_path / out, **defaults | options)

    return distill
