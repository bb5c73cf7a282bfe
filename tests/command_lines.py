"""Commands in this process and in their own, and a small source for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dap
from dap.evaluation import Small
from dap.evaluation.run import PROTOCOLS

# a shell's background job ignores SIGINT, and its children with it
COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from dap.cli.main import main; main()"
)  # fmt: skip
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(dap.__file__).parents[1])}
PROGRESS = re.compile(r"\d+%\||\dit/s|s/it")


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=1800, env=ENVIRONMENT, check=False,
    )  # fmt: skip


def said(text):
    """The lines that are no progress bar's."""
    return [line for line in re.split(r"[\r\n]+", text) if line.strip() and not PROGRESS.search(line)]


@pytest.fixture(name="run")
def fixture_of_run(command_line):
    """Runs ``dap`` with these arguments; returns exit code, standard output, and what standard error says."""

    def call(*arguments):
        code, out, err = command_line(*arguments)
        return code, out, said(err)

    return call


@pytest.fixture(scope="module", name="tree")
def fixture_of_tree(tmp_path_factory):
    """Two classes of six grey 16 x 16 images: light and dark noise."""
    folder = tmp_path_factory.mktemp("tree")
    draw = np.random.default_rng(0)
    for name, low in (("Bag", 0), ("Dress", 128)):
        (folder / name).mkdir()
        for number in range(6):
            pixels = draw.integers(low, low + 128, (16, 16), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(name="quick")
def fixture_of_quick(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "small", Small(width=4, few_steps=10))


def options(tiny_folder, out):
    return [
        "--method", "dap", "--out", out, "--prior", tiny_folder, "--num-inference-steps", 4, "--set", "references=2",
    ]  # fmt: skip
