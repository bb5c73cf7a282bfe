"""Three journeys of a new user, as the scripts in examples/journeys: each runs from the beginning to its last line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import client, hub_server

import dap

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder, *command):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_own_photographs_become_a_set_a_report_and_a_network_of_timm(tmp_path):
    text = run(tmp_path, "bash", str(EXAMPLES / "journeys/own_photos.sh"), str(tmp_path))
    assert len(list(tmp_path.glob("own/train/*/*.png"))) == 30
    page = (tmp_path / "report.html").read_text()
    assert "kite" in page and "http://" not in page.replace("http://www.w3.org", "")
    share = re.search(r"resnet18: (\d+) of 30 test images are right", text)
    assert share and int(share[1]) >= 15, text  # chance is 10


def test_a_method_of_ones_own_is_compared_with_four_others_under_two_protocols(tmp_path):
    run(tmp_path, sys.executable, str(EXAMPLES / "journeys/own_method.py"), str(tmp_path))
    for protocol in ("small", "hard"):
        table = (tmp_path / f"{protocol}.tex").read_text()
        assert table.startswith(f"% Protocol {protocol}, ") and "\\begin{tabular}" in table
        for method in ("random", "typical", "k\\_medoids", "herding", "dit"):
            assert re.search(rf"^{re.escape(method)}\b", table, re.MULTILINE), table


def test_a_set_is_shared_on_the_hub_loaded_again_and_trained_on(tmp_path):
    with hub_server(tmp_path / "repositories") as url:
        text = client(url, tmp_path, str(EXAMPLES / "journeys/hub_user.py"), "me", str(tmp_path))
    for part in ("datasets/me/fashion-15", "license: mit", "# fashion-15", "## Results", "convnet3", "## Limits"):
        assert part in text, part
    accuracy = re.search(r"accuracy on real images: ([\d.]+) %", text)
    assert accuracy and float(accuracy[1]) > 50  # of three classes


@pytest.mark.filterwarnings("ignore")
def test_the_example_of_lightning_trains_and_tests(tmp_path):
    pytest.importorskip("lightning")
    run(tmp_path, sys.executable, str(EXAMPLES / "journeys/make_photos.py"), "photos")
    lightning = [sys.executable, str(EXAMPLES / "train_lightning.py")]
    text = run(tmp_path, *lightning, "photos/train", "photos/test", "--epochs", "16", "--size", "32")
    assert accuracy_of(text) > 0.5, text  # of three classes


@pytest.mark.filterwarnings("ignore")
def test_the_example_of_lightning_takes_grey_images(tmp_path):
    pytest.importorskip("lightning")
    options = {"method": "random", "ipc": 20, "classes": ["Bag", "Dress", "Sandal"], "progress": False}
    dap.distill("fashion-mini", **options, out=tmp_path / "grey")
    lightning = [sys.executable, str(EXAMPLES / "train_lightning.py")]
    text = run(tmp_path, *lightning, "grey", "grey/train", "--epochs", "16", "--size", "32")
    assert accuracy_of(text) > 0.5, text


def accuracy_of(text):
    return float(re.search(r"'accuracy': ([\d.]+)", text)[1])
