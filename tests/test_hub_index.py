"""Indexes and sets on the hub, by huggingface_hub's own client against a local server."""

from __future__ import annotations

import pytest
from hub_server import client, hub_server

import dap

SCRIPT = """
import sys, dap
from dap.cli.main import main
from dap.errors import DapError
from dap.index.hub import pull_index

def run(*arguments):
    sys.argv = ["dap", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code


run("index", "push", "index", "me/features", "--public")
run("index", "pull", "me/features", "--out", "again")
assert dap.open_index("again").hash == dap.open_index("index").hash
made = dap.distill("fashion-mini", method="random", classes=["Bag"], ipc=2, out="set", progress=False)
print(made.push_to_hub("me/bags"))
assert dap.load("me/bags").manifest == made.manifest
for repo, out in (("me/bags", "other"), ("me/none", "other"), ("none", "other"), ("me/features", "index")):
    try:
        pull_index(repo, out)
    except DapError as error:
        print(f"{type(error).__name__}: {error}")
assert not __import__("pathlib").Path("other").exists()
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the script printed, and the folder of the repositories."""
    folder = tmp_path_factory.mktemp("hub")
    dap.build_index("fashion-mini", classes=["Bag"], max_per_class=3, timesteps=2, out=folder / "index", progress=False)
    with hub_server(folder / "repositories") as url:
        return client(url, folder, "-c", SCRIPT), folder / "repositories/me"


def test_an_index_that_is_pushed_comes_back_with_the_same_bytes(answers):
    text, repositories = answers
    assert "/datasets/me/features" in text and "3 images in again" in text
    card = (repositories / "features/README.md").read_text()
    assert "dap index pull me/features" in card and "`fashion-mini`" in card and "hf_secret" not in card


def test_a_set_goes_to_the_hub_by_its_own_client(answers):
    text, repositories = answers
    assert "/datasets/me/bags" in text
    assert (repositories / "bags/README.md").read_text().startswith("---\npretty_name: bags\nlicense: mit\n")


def test_what_is_no_index_is_said_and_leaves_nothing(answers):
    text, _ = answers
    errors = [line for line in text.splitlines() if "Error: " in line]
    for part, error in zip(
        ("me/bags: the repository is no feature index: it has no index.json", "cannot download 'me/none'",
         "repo_id: expected user/name, got 'none'", "expected a new or an empty folder"), errors, strict=True,
    ):  # fmt: skip
        assert part in error
