"""How objects show themselves: in one line, without addresses in memory, and in notebooks."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dap
from dap.evaluation.result import EvaluationResult, Row
from dap.evaluation.statistics import Difference
from dap.loader import Loader
from dap.methods import MethodInfo
from dap.priors.dit import DiTPrior
from dap.priors.no_prior import NoPrior
from dap.report import sheet_title
from dap.selection import herding, k_medoids

ROWS = np.random.default_rng(0).normal(size=(30, 3))


def result() -> EvaluationResult:
    rows = tuple(Row(name, "convnet3", 10, (70.0, 72.0), (71.0, 73.0), None) for name in ("distilled", "<real>"))
    paired = Row("real", "convnet3", 10, (70.0, 72.0), (71.0, 73.0), Difference(1.0, -1.0, 3.0, 2))
    return EvaluationResult("small", 0, 2, 100, ("a", "b"), (*rows, paired), recognised=0.5)


class Balanced(HTMLParser):
    """Raises unless each tag that is opened is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def texts(html: str) -> list[str]:
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    return parser.text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dap.DistilledDataset:
    out = tmp_path_factory.mktemp("runs") / "run"
    return dap.distill("fashion-mini", method="random", prior=None, ipc=2, seed=7, out=out, progress=False)


def test_in_one_line(run: dap.DistilledDataset, tiny_pipeline) -> None:
    loader = Loader(*run.to_torch(), batch_size=3, augment="crop", device="cpu")
    shown = [
        run.source, dap.open_source("fashion-mini"), loader, herding(ROWS, 9), k_medoids(ROWS, 2), result(),
        DiTPrior(tiny_pipeline, name="tiny"), NoPrior((3, 8, 8)), dap.list_methods()[0],
        Loader(*run.to_torch(), batch_size=3, augment=lambda images, generator: images, device="cpu"),
    ]  # fmt: skip
    for value in shown:
        assert len(repr(value)) < 200 and " at 0x" not in repr(value), repr(value)
    assert repr(shown[1]) == "Source('fashion-mini', 10000 images, 10 classes)"
    assert repr(loader) == "Loader(20 images of 1x32x32, 7 batches of 3, augment 'crop', epoch 0, 'cpu')"
    assert repr(shown[6]) == "DiTPrior('tiny', images of 1x32x32, 3 blocks, float32, 'cpu')"
    assert re.fullmatch(r"Selection\(9 rows: (\d+, ){5}…, error 0\.\d+\)", repr(shown[3]))


def test_in_notebooks(run: dap.DistilledDataset) -> None:
    assert "<real>" in texts(result()._repr_html_())
    assert "recognised by the judge: 50.0 %" in texts(result()._repr_html_())
    chosen = herding(ROWS, 3)
    assert [str(row) for row in chosen.indices.tolist()] == texts(chosen._repr_html_())[3::2]
    info = MethodInfo("mine", "A & B, 2026", 2026, (), "slot", ())
    assert "A & B, 2026" in texts(info._repr_html_())


def test_a_set_shows_its_contact_sheet(run: dap.DistilledDataset) -> None:
    html = run._repr_html_()
    assert "20 images, 10 classes" in texts(html)[0]
    data = re.search(r'<img alt="contact sheet of [^"]+" src="data:image/png;base64,([^"]+)">', html)
    assert data is not None
    sheet = Image.open(io.BytesIO(base64.b64decode(data[1])))
    np.testing.assert_array_equal(np.asarray(sheet), np.asarray(run.show()))


def test_the_title_of_a_sheet(run: dap.DistilledDataset) -> None:
    assert sheet_title(run.source, run.manifest) == "random, 2 images per class, seed 7"
    assert sheet_title(run[1:].source, run.manifest) == "random, 1 to 2 images per class, seed 7"
    sampled = {"options": {"method": {"name": "dap"}, "seed": 0}}
    many = dap.open_source("fashion-mini")
    assert sheet_title(many, sampled) == ("dap, 1000 images per class, seed 0, the first 20 images of 10 classes")
    titled, plain = run.show(), dap.load(run.path / "train").show()
    assert titled.height == plain.height + 26 and titled.width >= plain.width
    assert np.asarray(titled)[:26].min() < 128  # text
    assert np.asarray(Image.open(Path(run.path, "contact_sheet.png"))).shape == np.asarray(titled).shape


def test_an_index_shows_its_classes(tmp_path: Path, tiny_pipeline) -> None:
    index = dap.build_index(
        "fashion-mini", out=tmp_path / "index", prior=DiTPrior(tiny_pipeline), classes=["Bag"], timesteps=1, block=1,
    )  # fmt: skip
    assert "Bag" in texts(index._repr_html_()) and str(len(index)) in texts(index._repr_html_())
