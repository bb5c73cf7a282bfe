"""The metrics of whole sets, of any format: values, intervals, notes, images that two sets share, the command."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from PIL import Image

import dap
from dap import kernels, metrics
from dap.cli.values import METRICS
from dap.data.source import Source
from dap.errors import OptionError
from dap.features import Encoder
from dap.metrics.estimates import FAMILIES
from dap.metrics.result import DIRECTIONS

CLASSES = ("Bag", "Dress", "Sandal")


def fashion(split: str, start: int, count: int) -> Source:
    source = dap.open_source("fashion-mini", split=split, classes=CLASSES)
    return source.select([int(i) for label in range(3) for i in source.of_class(label)[start : start + count]])


@pytest.fixture(scope="module")
def real() -> Source:
    return fashion("train", 0, 40)


@pytest.fixture(scope="module")
def own() -> Source:
    return fashion("test", 0, 9)


def of_images(images: list[np.ndarray], labels: list[int], name: str = "made") -> Source:
    return Source(
        name, CLASSES, CLASSES, np.array(labels, np.int64), [str(i) for i in range(len(images))],
        lambda index: Image.fromarray(images[index]),
    )  # fmt: skip


def test_names_are_the_same_everywhere() -> None:
    assert tuple(DIRECTIONS) == METRICS == tuple(name for family in FAMILIES for name in family.names)


def test_values_are_those_of_the_functions(own: Source, real: Source) -> None:
    encoder = Encoder("pixels", size=8)
    result = dap.measure(own, real, features=encoder)
    order = [real.class_names.index(name) for name in own.class_names]
    x = [encoder.rows(own, own.of_class(label), cached=False) for label in range(3)]
    y = [encoder.rows(real, real.of_class(label), cached=False) for label in order]
    every, given = np.concatenate(x), np.concatenate(y)
    means = {
        "representativeness": metrics.representativeness, "diversity": lambda a, b: metrics.diversity(a),
        "mmd2": metrics.mmd2, "energy_distance": lambda a, b: metrics.energy_distance(a, b, unbiased=True),
        "minimax_representativeness": metrics.minimax_representativeness,
        "minimax_diversity": lambda a, b: metrics.minimax_diversity(a),
        "mgd3_representativeness": lambda a, b: metrics.mgd3_representativeness(a, b, 40),
        "mgd3_diversity": lambda a, b: metrics.mgd3_diversity(a),
    }  # fmt: skip
    for name, function in means.items():
        per_class = [function(a, b) for a, b in zip(x, y, strict=True)]
        assert list(result[name].per_class.values()) == pytest.approx(per_class, rel=1e-4, abs=1e-6), name
        assert result[name].value == pytest.approx(np.mean(per_class), rel=1e-4, abs=1e-6), name
    balls, near = metrics.prdc(every, given, 5), metrics.nearest_real(every, given)
    pooled = {
        "fid": metrics.fid(every, given), "kid": metrics.kid(every, given).mean, "precision": balls.precision,
        "recall": balls.recall, "density": balls.density, "coverage": balls.coverage,
        "vendi_score": metrics.vendi_score(every), "nearest_real": near.distances.mean(),
        "authenticity": near.authenticity,
        "manifold_gd_representativeness": metrics.manifold_gd_representativeness(every, given),
        "manifold_gd_diversity": metrics.manifold_gd_diversity(every),
    }  # fmt: skip
    assert {name: result[name].value for name in pooled} == pytest.approx(pooled)
    assert set(means) | set(pooled) == set(METRICS)
    assert result["fid"].per_class["Dress"] == pytest.approx(metrics.fid(x[0], y[0]))
    assert result["coverage"].low <= result["coverage"].value <= result["coverage"].high


def test_the_interval_of_mmd2_is_the_jackknife_of_each_class(own: Source, real: Source) -> None:
    encoder = Encoder("pixels", size=8)
    halves = []
    for name in own.class_names:
        x, y = (encoder.rows(source.subset([name]), cached=False).astype(np.float64) for source in (own, real))
        low, high = metrics.jackknife(lambda kept, x=x, y=y: kernels.mmd2(x[kept], y, kernels.Distance()), len(x))
        halves.append((high - low) / 2)
    found = dap.measure(own, real, features=encoder, only=["energy_distance"])["energy_distance"]
    assert found.high - found.value == pytest.approx(np.linalg.norm(halves) / 3, rel=1e-3)
    assert found.value - found.low == pytest.approx(np.linalg.norm(halves) / 3, rel=1e-3)


def test_blank_images_copies_and_few_images_are_named(real: Source) -> None:
    blank = of_images([np.zeros((8, 8), np.uint8)] * 6, [0, 0, 1, 1, 2, 2])
    result = dap.measure(blank, real, features_options={"size": 8})
    assert any("all 6 distilled images have the same features: they are blank" in note for note in result.notes)
    assert result["vendi_score"].value == pytest.approx(1)
    copies = dap.measure(real.select([0, 50, 90]), real, features_options={"size": 8})
    assert "3 of the 3 distilled images have exactly the features of a real image" in copies.notes
    assert math.isnan(copies["precision"].value)
    assert copies.notes[-1].startswith("too few images for mmd2, energy_distance, precision")
    assert "with 3 of them" in "".join(copies.notes)
    assert json.loads(copies.to_json())["metrics"]["precision"]["value"] is None
    several = dap.measure(real.select([*range(3), *range(50, 53), *range(90, 96)]), real, features_options={"size": 8})
    assert several["coverage"].value >= 0 and math.isnan(several["coverage"].per_class[real.class_names[0]])
    assert several.notes[-1] == (
        "too few images in 2 of 3 classes for their values of precision, recall, density, coverage"
    )
    assert "\nprecision                       –  " in copies.table()


def test_a_computation_of_hours_is_told(own: Source, real: Source, monkeypatch, caplog) -> None:
    chosen = {"features_options": {"size": 8}, "only": ["fid", "precision", "coverage"]}
    dap.measure(own, real, **chosen)
    assert not caplog.records
    monkeypatch.setattr("dap.metrics.sets._LONG", 120**2 * 192 - 1)
    dap.measure(own, real, **chosen)
    assert caplog.messages == ["precision, coverage compare all pairs of 120 real images, which takes hours"]


def write(kind: str, source: Source, folder: Path) -> str | datasets.Dataset:
    """Write a set as others do."""
    pictures = [Image.fromarray(source.pixels(i)[0]) for i in range(len(source))]
    names = [source.class_names[label] for label in source.labels]
    folder.mkdir()
    if kind == "pt":
        stored = torch.from_numpy(np.stack([source.pixels(i) for i in range(len(source))]))
        torch.save({"images": stored, "labels": torch.from_numpy(source.labels.copy())}, folder / "set.pt")
        return str(folder / "set.pt")
    if kind == "folder":
        for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            (folder / name).mkdir(exist_ok=True)
            picture.save(folder / name / f"{number}.png")
        return str(folder)
    if kind == "dataset":
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
        return datasets.Dataset.from_dict({"image": pictures, "label": names}, features=features)
    encoded = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, format="PNG")
        encoded.append(file.getvalue())
    if kind == "parquet":
        images = pa.array([{"bytes": data, "path": None} for data in encoded])
        pq.write_table(pa.table({"image": images, "label": names}), folder / "train.parquet")
        return str(folder / "train.parquet")
    with webdataset.TarWriter(str(folder / "train-000000.tar")) as tar:
        for number, (data, name) in enumerate(zip(encoded, names, strict=True)):
            tar.write({"__key__": f"{number:04}", "png": data, "cls": name})
    return str(folder / "train-000000.tar")


@pytest.mark.parametrize("kind", ["folder", "webdataset", "parquet", "dataset", "pt"])
def test_every_format(tmp_path: Path, own: Source, real: Source, kind: str) -> None:
    chosen = {"features_options": {"size": 8}, "only": ["representativeness", "fid"]}
    expected = dap.measure(own, real, **chosen)
    spec = write(kind, own, tmp_path / "own")
    if kind == "pt":  # its classes are numbers
        real = replace(real, class_names=tuple(str(own.class_names.index(name)) for name in real.class_names))
    found = dap.measure(spec, real, **chosen)
    assert [found[name].value for name in chosen["only"]] == pytest.approx(
        [expected[name].value for name in chosen["only"]], rel=1e-5
    )


def test_overlap_finds_copies_and_other_encodings(photographs: Path) -> None:
    pictures = [Image.open(path).convert("RGB") for path in sorted(photographs.rglob("*.*"))[:3]]
    file = io.BytesIO()
    pictures[1].save(file, format="JPEG", quality=60)
    smaller = pictures[2].resize((pictures[2].width // 2, pictures[2].height // 2))
    crop = pictures[2].crop((0, 0, pictures[2].width // 2, pictures[2].height // 2))
    changed = [pictures[0], Image.open(file), smaller, crop]
    first = of_images([np.asarray(picture) for picture in changed], [0, 1, 2, 2], "test")
    second = of_images([np.asarray(picture) for picture in pictures], [0, 1, 2], "train")
    found = metrics.overlap(first, second)
    assert found.same == (("0", "0"),)
    assert sorted(found.near) == [("1", "1"), ("2", "2")]
    assert max(found.differences) < 0.01
    assert str(found).startswith("overlap: of the 4 images of test, 1 are in train pixel by pixel and 2 nearly so: 0 =")
    assert not metrics.overlap(first.select([3]), second)


def test_against_tells_all_three_overlaps(own: Source, real: Source) -> None:
    chosen = own.select([0, 1])
    result = dap.measure(chosen, real, against=own, only=["nearest_real"], features_options={"size": 8})
    assert [len(found.same) for found in result.overlaps] == [2, 0, 0]
    assert "of the 2 images of the distilled set, 2 are in the test set pixel by pixel" in result.table()
    assert "none of the 27 images of the test set is in the training set" in result.table()


def test_the_judge(own: Source, real: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    from dap.evaluation import Small, judge

    monkeypatch.setattr(judge, "JUDGE", Small(width=8, few_steps=60, many_steps=60))
    result = dap.measure(own, real, only=["nearest_real"], features_options={"size": 8}, judge=True)
    assert result.recognised > 0.8
    assert result.recognised == pytest.approx(np.mean(list(result.recognised_per_class.values())))
    assert "recognised by the judge" in result.table(per_class=True)


def test_refusals(own: Source, real: Source, tiny_folder: Path) -> None:
    renamed = replace(own, class_names=("a", "b", "c"))
    for call, message in (
        (lambda: dap.measure(own, real, only=["fud"]), "unknown metric 'fud'; did you mean 'fid'"),
        (lambda: dap.measure(own, real, only=[]), "expected names of metrics"),
        (lambda: dap.measure(own), "give the real training images, real="),
        (lambda: dap.measure(renamed, real), "unknown class 'a'"),
        (lambda: dap.measure(renamed, renamed, prior=tiny_folder), "does not know a class"),
        (lambda: dap.measure(own, real, features="pixels", prior=tiny_folder), "need no prior"),
        (lambda: dap.measure(own, real, features=Encoder("pixels"), features_options={"size": 8}), "has its own"),
    ):
        with pytest.raises(OptionError, match=message):
            call()


def test_the_command(command_line, tmp_path: Path, own: Source) -> None:
    folder = write("folder", own, tmp_path / "own")
    out = tmp_path / "m.json"
    code, text, _ = command_line(
        "metrics", folder, "--real", "fashion-mini", "--features-set", "size=8", "--only", "kid", "--only", "coverage",
        "--per-class", "--json", str(out),
    )  # fmt: skip
    assert code == 0
    assert text.splitlines()[0] == "27 images of 3 classes against 3000 real images, features: pixels"
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["metric", "kid", "coverage"]
    stored = json.loads(out.read_text())
    assert list(stored["metrics"]) == ["kid", "coverage"]
    assert set(stored["metrics"]["kid"]["per_class"]) == set(CLASSES)
    assert stored["features"] == {"name": "pixels", "size": 8}
