"""The report: one page without a network, with what is wrong in a set first."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import grey_tree
from PIL import Image

import dap
from dap.data.open import open_source
from dap.evaluation import EvaluationResult, Row, judge, judge_images, judge_source
from dap.evaluation.judge import JUDGE
from dap.features.encoders import PixelEncoder
from dap.metrics.distance import coverage, diversity
from dap.report import command_of
from dap.report.charts import energy_charts, mean_energies
from dap.report.feature_map import feature_map
from dap.report.findings import ClassFindings, findings_of
from dap.report.page import report_page

VOID = ("img", "meta", "br")


class Page(HTMLParser):
    """Raises unless tags are closed in order; keeps texts, pictures and links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.ids: list[str | None] = []
        self.links: list[str] = []
        self.feed(page)
        assert self.open == [] and set(self.links) <= set(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "srcset" not in dict(attrs) and tag not in ("script", "link", "iframe")
        assert str(dict(attrs).get("href", "#")).startswith("#")
        if tag == "img":
            self.pictures.append(dict(attrs))
        if "id" in dict(attrs):
            self.ids.append(dict(attrs)["id"])
        if "href" in dict(attrs):
            self.links.append(str(dict(attrs)["href"])[1:])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture
def real(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat & co", "dog"):
        (tmp_path / "real" / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "real" / name / f"{number:02d}.png")
    return tmp_path / "real"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Four cats: two alike, one blank, one a real image; three dogs without a fault."""
    generator = np.random.default_rng(1)
    for name, count in (("cat & co", 4), ("dog", 3)):
        (tmp_path / "made" / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "made" / name / f"{number}.png")
    cats = tmp_path / "made" / "cat & co"
    (cats / "1.png").write_bytes((cats / "0.png").read_bytes())
    Image.new("RGB", (16, 16), (90, 90, 90)).save(cats / "2.png")
    return tmp_path / "made"


def test_what_is_wrong_is_found(real: Path, made: Path) -> None:
    (made / "cat & co" / "3.png").write_bytes((real / "cat & co" / "07.png").read_bytes())
    source, originals = open_source(made), open_source(real)
    cats, dogs = findings_of(source, {}, originals, PixelEncoder(), most=100)
    assert cats.alerts == [
        "image 2 is blank: all pixels have nearly the same value",
        "image 3 is nearly a copy of real image cat & co/07.png", "images 0 and 1 are nearly the same",
    ]  # fmt: skip
    assert dogs.alerts == ["3 images, where other classes have up to 4"]
    rows = [PixelEncoder().rows(one, one.of_class(0), label=0, cached=False) for one in (source, originals)]
    assert cats.coverage == coverage(*rows) and cats.diversity == diversity(rows[0])
    for index, near in cats.pairs:
        distances = np.linalg.norm(rows[1] - rows[0][index], axis=1)
        assert near == originals.of_class(0)[distances.argmin()]


@pytest.mark.parametrize("method", ["random", "k_medoids"])
def test_real_images_that_were_chosen_are_no_copies(method: str, tmp_path: Path) -> None:
    run = dap.distill("fashion-mini", method=method, ipc=3, classes=["Bag", "Dress"], out=tmp_path / "run")
    found = findings_of(run.source, run.manifest, open_source("fashion-mini"), PixelEncoder(), most=100)
    assert [entry.alerts for entry in found] == [[], []]


def test_the_page_holds_all_it_shows(real: Path, made: Path, tmp_path: Path, command_line) -> None:
    page = tmp_path / "page.html"
    code, shown, _ = command_line("report", made, real, "--real", real, "--out", page)
    assert code == 0 and shown.startswith(f"{page}: 0.")
    text = page.read_text()
    parsed = Page(text)
    assert len(parsed.pictures) == 2 * (7 + 24)
    assert all(
        str(picture["src"]).startswith("data:image/jpeg;base64,") and picture["alt"] for picture in parsed.pictures
    )
    assert not re.search(r"https?://|url\(", text)
    assert "cat & co: images 0 and 1 are nearly the same" in parsed.texts and "cat & co" in parsed.texts
    alerts, numbers, images = (text.index(f'<h2 id="{part}"') for part in ("alerts", "numbers", "images"))
    assert alerts < numbers < images
    assert any(text.startswith("Features: pixels.") for text in parsed.texts)
    for words in ('lang="en"', "prefers-color-scheme: dark", 'name="viewport"', 'class="skip"'):
        assert words in text


def test_a_run_has_its_command_and_manifest(tmp_path: Path, command_line, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    dap.distill("fashion-mini", method="random", ipc=1, seed=5, out="run", progress=False)
    assert command_line("report", "run")[0] == 0
    texts = Page(Path("report.html").read_text()).texts
    assert "dap distill fashion-mini --out run --method random --ipc 1 --seed 5" in texts
    assert any('"identity"' in text for text in texts) and "Nothing that needs a look." in texts
    assert (
        texts[texts.index("prior") + 1] == "none"
        and "making the images" in texts
        and "Energy over the steps" not in texts
    )


def test_the_commands_of_a_run_make_its_images_again_too(tiny_folder, tmp_path, command_line) -> None:
    tree = grey_tree(tmp_path / "tree", 4, ("Bag", "Dress"))
    settings = {"prior": str(tiny_folder), "method": "dit", "ipc": 3, "num_inference_steps": 2, "progress": False}
    for again in ([], ["Bag/1", "Dress/0"], ["Dress"]):
        run = dap.distill(tree, out=tmp_path / "run", remake=again, **settings)
    lines = command_of(run.manifest, str(tmp_path / "same")).splitlines()
    assert [line.split(" --remake ")[1:] for line in lines] == [[], ["Bag/1", "Dress/0"], ["Dress"]]
    for line in lines:
        assert command_line(*shlex.split(line)[1:])[0] == 0
    for file in run.files:
        assert (tmp_path / "same" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def test_what_a_judge_does_not_recognise(real: Path, made: Path, tmp_path: Path, command_line, monkeypatch) -> None:
    from dap import evaluation

    asked = []
    seen = evaluation.Judged(
        np.array([0.9, 0.2, 0.1, 0.3, 0.8, 0.05, 0.7], np.float32), np.array([0, 1, 1, 1, 1, 0, 1])
    )
    monkeypatch.setattr(evaluation, "judge_images", lambda *arguments: asked.append(arguments) or [seen])
    page = tmp_path / "page.html"
    assert command_line("report", made, "--real", real, "--judge", "--out", page)[0] == 0
    parsed = Page(page.read_text())
    assert "cat & co: the judge recognises 25 % of its images" in parsed.texts and len(asked) == 1
    worst = [" ".join(text.split()) for text in parsed.texts if " image " in text and "%;" in text]
    assert worst[:2] == ["dog, image 1: 5.0 %; seen as cat & co", "cat & co, image 2: 10.0 %; seen as dog"]


def test_sets_of_the_same_real_images_are_judged_with_one_object(
    real, made, tmp_path, command_line, monkeypatch
) -> None:
    from dap import evaluation

    asked = []

    def judged(sets, *_):
        asked.extend(sets)
        return [evaluation.Judged(np.ones(7, np.float32), np.array([0] * 4 + [1] * 3)) for _ in sets]

    monkeypatch.setattr(evaluation, "judge_images", judged)
    shutil.copytree(made, tmp_path / "other")
    options = ("--real", real, "--judge", "--out", tmp_path / "page.html")
    assert command_line("report", made, tmp_path / "other", *options)[0] == 0
    assert len(asked) == 2 and asked[0][1] is asked[1][1] and asked[0][0] is not asked[1][0]


def test_a_judge_sees_each_image(real: Path, monkeypatch, capsys) -> None:
    source = open_source(real)
    monkeypatch.setattr(judge, "JUDGE", replace(JUDGE, width=8, few_steps=40, many_steps=40))
    fits, fit = [], type(judge.JUDGE).fit
    monkeypatch.setattr(type(judge.JUDGE), "fit", lambda *given, **options: fits.append(1) or fit(*given, **options))
    cats = source.subset(["cat & co"])
    seen, same, part = judge_images([(source, source), (source, source), (cats, source)], 0, "cpu")
    assert len(fits) == 2 and (same.own == seen.own).all() and len(part.own) == len(cats)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    again = judge_source(source, source, 0, "cpu")
    assert re.search(r"judge: 100%\|.*40/40", capsys.readouterr().err)
    assert seen.own.shape == (24,) and ((seen.own >= 0) & (seen.own <= 1)).all()
    assert again.share == (seen.seen_as == source.labels).mean() > 0.5
    assert ((seen.own > 0.5) == (seen.seen_as == source.labels)).all()


def test_a_map_has_the_principal_components_of_the_real_images() -> None:
    generator = np.random.default_rng(0)
    real = (generator.normal(size=(60, 5)) * (9, 5, 1, 0.5, 0.1)).astype(np.float32)
    far = np.array([[0, 0, 0, 0, 0], [500, 0, 0, 0, 0]], np.float32)
    entries = [
        ClassFindings(name, 2, [], [], None, None, 30, far, rows)
        for name, rows in zip("ab", (real[:30], real[30:]), strict=True)
    ]
    found = feature_map(entries)
    values = np.linalg.eigvalsh(np.cov(real.T))[::-1]
    assert found is not None and found.share == pytest.approx(values[:2].sum() / values.sum(), rel=1e-5)
    assert [dots.real.count("M") for dots in found.classes] == [30, 30] and found.real == 60
    zero, edge = re.findall(r"M(\d+) (\d+)", found.classes[0].made)
    assert 200 < int(zero[0]) < 440 and int(edge[0]) in (5, found.width - 5)
    (first, second) = (dots.label for dots in found.classes)  # both at the same place, apart on the page
    assert first[0] == second[0] and abs(first[1] - second[1]) == 18
    assert feature_map([replace(entry, real_features=entry.real_features[:1]) for entry in entries]) is None
    many = feature_map([replace(entries[0], name=str(number)) for number in range(11)])
    assert many is not None and [dots.name for dots in many.classes] == [""]


def test_accuracies_and_energies_are_drawn(real: Path, made: Path, tmp_path: Path, command_line) -> None:
    def result(*last: float) -> str:
        rows = (
            Row("distilled", "convnet3", 7, last, last, None),
            Row("random real", "convnet3", 7, (50.0, 52.0), (50.0, 52.0), None),
        )
        return EvaluationResult("small", 0, 2, 100, ("a", "b"), rows).to_json()

    (tmp_path / "a.json").write_text(result(60.0, 62.0))
    (tmp_path / "b.json").write_text(result(40.0, 43.0))
    page, files = tmp_path / "page.html", ("--evaluation", tmp_path / "a.json", "--evaluation", tmp_path / "b.json")
    assert command_line("report", made, real, "--real", real, "--out", page, *files)[0] == 0
    texts = Page(page.read_text()).texts
    assert "+10.0 [+10.0, +10.0]" in texts and any(text.startswith("-9.5 [") for text in texts)
    heads = [texts.index("minus random real images"), texts.index("minus made")]
    cells = [index for start in ("-9.5 [", "-19.5 [") for index, text in enumerate(texts) if text.startswith(start)]
    assert heads == sorted(heads) and cells == sorted(cells)
    units = {"0": {"slots": 1, "mean": [1.0]}, "1": {"slots": 3, "mean": [5.0, None]}}
    assert mean_energies({"energy": {"Pull": units}}) == {"Pull": [4.0, None]}
    assert (
        "expected one for each of 2 folders, got 1" in command_line("report", made, real, "--out", page, *files[:2])[2]
    )
    (chart,) = energy_charts({"a": {"Pull": [4.0, 2.0, None]}, "b": {"Pull": [3.0, 1.0, 0.0]}})
    assert chart.steps == 3 and [line.name for line in chart.lines] == ["a", "b"]
    heights = [[float(place.split()[1]) for place in re.split("[ML]", line.path)[1:]] for line in chart.lines]
    assert [len(line) for line in heights] == [2, 3] and heights[0][0] == 10 and heights[1][2] == chart.bottom


def test_a_run_records_its_energies(tmp_path: Path) -> None:
    def energies(out: str, **options: object) -> dict[str, Any]:
        return dap.distill(
            "fashion-mini", method="dap", num_inference_steps=4, classes=["Bag", "Dress"], out=tmp_path / out,
            progress=False, batch_size=1, **options,
        ).manifest["energy"]  # fmt: skip

    whole = energies("whole", ipc=2)
    ((term, units),) = whole.items()
    assert term == "KernelDistanceTerm" and sum(unit["slots"] for unit in units.values()) == 4 and len(units) > 1
    assert {len(unit["mean"]) for unit in units.values()} == {4}
    means = mean_energies({"energy": whole})[term]
    assert means[0] == pytest.approx(sum(unit["slots"] * unit["mean"][0] for unit in units.values()) / 4)
    assert all(mean is not None and mean > 0 for mean in means)
    (tmp_path / "whole" / "train" / "Dress" / "00001.png").unlink()
    assert energies("whole", ipc=2) == whole  # the unit that is made again is there once


def test_many_images_are_sampled(real: Path, monkeypatch) -> None:
    monkeypatch.setattr("dap.report.page.MOST_IMAGES", 6)
    source = open_source(real)
    text = report_page({"a": (source, {}), "b": (source, {})}, {"a": source, "b": source}, PixelEncoder())
    assert len(Page(text).pictures) == 2 * 4 and "2 of 24 images are shown" in text


def test_a_page_of_noise_is_not_too_long(tmp_path: Path, monkeypatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    for label in range(30):
        (tmp_path / "noise" / f"{label:02d}").mkdir(parents=True)
        for number in range(2):
            Image.fromarray(noise[2 * label + number]).save(tmp_path / "noise" / f"{label:02d}" / f"{number}.png")
    source = open_source(tmp_path / "noise")
    page = [report_page({"a": (source, {})}, {"a": source}, PixelEncoder())]
    for most in (300_000, 200_000):
        monkeypatch.setattr("dap.report.page.MOST_BYTES", most)
        page.append(report_page({"a": (source, {})}, {"a": source}, PixelEncoder()))
        assert len(page[-1].encode()) <= most < len(page[-2].encode())
        assert all(str(picture["src"]).startswith("data:") for picture in Page(page[-1]).pictures)
    monkeypatch.setattr("dap.report.page.MOST_IMAGES", 10)
    assert len(Page(report_page({"a": (source, {})}, {"a": source}, PixelEncoder())).pictures) == 2 * 10


def test_pairs_that_are_alike_are_counted_after_twenty(real: Path, tmp_path: Path) -> None:
    (tmp_path / "same" / "dog").mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "same" / "dog" / f"{number}.png")
    (found,) = findings_of(open_source(tmp_path / "same"), {}, open_source(real), PixelEncoder(), most=100)
    assert sum(" are nearly the same" in alert for alert in found.alerts) == 21
    assert found.alerts[-1] == "8 more pairs of images are nearly the same"


def test_what_a_report_needs(real: Path, tmp_path: Path, command_line) -> None:
    page = tmp_path / "page.html"
    assert "give the real images that it stands for, --real" in command_line("report", real, "--out", page)[2]
    assert "without labels" in command_line("report", real, "--features", "prior", "--out", page)[2]
    assert not page.exists()
