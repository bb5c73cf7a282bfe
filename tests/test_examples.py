"""The studies in examples/ run whole with few images, steps and epochs, and continue after a stop."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dap
from dap.evaluation import Small
from dap.priors import load_prior

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def examples(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))  # and afterwards as before, though examples set it too


@pytest.fixture
def study(examples, monkeypatch):
    import architectures_study

    whole = architectures_study.real_images

    def real_images(*arguments):
        return tuple(part[:300] for part in whole(*arguments))

    for name, value in {
        "HARD": {"checks": 1, "few_steps": 2}, "real_images": real_images,
        "SOFT": architectures_study.SOFT | {"epochs": 1}, "JUDGE": Small(width=4, few_steps=2, many_steps=2),
        "NETWORKS": (("convnet3", "hard"), ("small_mlp", "hard"), ("small_mlp", "soft")),
    }.items():  # fmt: skip
        monkeypatch.setattr(architectures_study, name, value)
    architectures_study.teacher.cache_clear()
    yield architectures_study
    architectures_study.teacher.cache_clear()


def run(study, monkeypatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["architectures_study.py", *map(str, options)])
    study.main()


def outcomes(study, out: Path) -> list[dict]:
    return [{name: record[name] for name in record if name != "seconds"} for record in study.read(out)]


def test_the_study_of_architectures_continues_after_a_stop(study, monkeypatch, tmp_path, capsys):
    options = ("--seeds", 0, 2, "--ipc", 1, "--only", "random")
    run(study, monkeypatch, "--out", tmp_path / "whole", *options, "--table", tmp_path / "table.md")
    found = outcomes(study, tmp_path / "whole")
    kinds = sorted((record["seed"], record["network"], record["labels"]) for record in found)
    assert kinds == [
        (0, "", ""), (0, "convnet3", "hard"), (0, "small_mlp", "hard"), (0, "small_mlp", "soft"), (1, "", ""),
        (1, "convnet3", "hard"),
    ]  # fmt: skip
    assert "| `random` |" in (tmp_path / "table.md").read_text()

    real, calls = study.outcome, iter(range(3))
    monkeypatch.setattr(study, "outcome", lambda *args: real(*args) if next(calls, None) is not None else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(study, monkeypatch, "--out", tmp_path / "stopped", *options)
    assert len(outcomes(study, tmp_path / "stopped")) == 3
    monkeypatch.setattr(study, "outcome", real)
    study.teacher.cache_clear()
    shutil.rmtree(tmp_path / "stopped/sets")  # as on another machine, which has the outcomes alone
    capsys.readouterr()
    run(study, monkeypatch, "--out", tmp_path / "stopped", *options)
    assert "left: 3 parts" in capsys.readouterr().out
    assert outcomes(study, tmp_path / "stopped") == found

    study.teacher.cache_clear()  # the teacher is that of the first run, not trained again
    monkeypatch.setattr(study, "JUDGE", SimpleNamespace(width=4))
    assert isinstance(
        study.teacher(tmp_path / "whole", study.Data(), 1, dap.open_source("fashion-mini").class_names), nn.Module
    )


def test_the_study_of_architectures_has_methods_for_each_number_of_images(study, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "METHODS", {1: ("random",), 3: ("herding",)})
    monkeypatch.setattr(study, "NETWORKS", (("convnet3", "hard"),))
    monkeypatch.setattr(study, "outcome", lambda part, *_: part._asdict() | {"seconds": 1.0, "last": 50.0})
    table = tmp_path / "table.md"
    for sizes in (("--ipc", 2, 5), ()):
        run(study, monkeypatch, "--out", tmp_path, "--seeds", 0, 1, "--table", table, *sizes)
    made = [(record["ipc"], record["method"]) for record in outcomes(study, tmp_path) if record["network"]]
    assert made == [(2, "random"), (5, "herding"), (1, "random"), (3, "herding")]
    shown = [line for line in table.read_text().splitlines() if line.startswith(("###", "| `"))]
    assert shown == [
        "### 1 images a class",
        "| `random` | 50.00 | 1 |",
        "### 3 images a class",
        "| `herding` | 50.00 | 1 |",
    ]


def test_the_study_of_architectures_takes_other_images_and_options(study, monkeypatch, tmp_path, make_pipeline):
    draw = np.random.default_rng(0)
    for folder in ("train/Dress", "train/Bag", "test/Dress", "test/Bag"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(9):
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / folder / f"{number}.png")
    make_pipeline(image_channels=3).save_pretrained(tmp_path / "prior")
    train, trained_on = study.run_protocol, {}

    def noted(images, *arguments, seed, network, **options):
        trained_on.setdefault((seed, network), []).append(images)
        return train(images, *arguments, seed=seed, network=network, **options)

    monkeypatch.setattr(study, "run_protocol", noted)
    run(
        study, monkeypatch, "--out", tmp_path / "out", "--seeds", 4, 6, "--others", 2, "--ipc", 1, "--only", "random",
        "random through the VAE", "dm steps=1 width=4", "--source", tmp_path / "train", "--test", tmp_path / "test",
        "--prior", tmp_path / "prior", "--table", tmp_path / "table.md",
    )  # fmt: skip
    assert len(outcomes(study, tmp_path / "out")) == 2 * 3 * 4
    real, through, _ = trained_on[4, "convnet3"]
    prior = load_prior(tmp_path / "prior")
    np.testing.assert_array_equal(through, prior.decode(prior.encode(torch.from_numpy(real))).numpy())
    assert not np.array_equal(through, real)
    made = dap.load(tmp_path / "out/sets/dm-steps=1-width=4-1-4")
    assert made.to_torch()[0].shape == (2, 3, 32, 32) and made.manifest["options"]["method"]["steps"] == 1
    assert "| `dm steps=1 width=4` |" in (tmp_path / "table.md").read_text()
    _, labels = study.real_images(study.Data(str(tmp_path / "train")), "train", 3, ("Dress", "Bag"))
    assert labels.tolist() == [1] * 9 + [0] * 9  # by name; the folder has Bag first
    with pytest.raises(SystemExit, match="give another --out"):  # of fashion-mini
        run(study, monkeypatch, "--out", tmp_path / "out", "--seeds", 4, 6, "--only", "random")


def test_a_published_table_is_made_and_continued(examples, monkeypatch, tmp_path, capsys):
    import published_tables
    import reproduce_table

    table = replace(published_tables.TABLES["fashion"], ipc=(1,), networks=("small_mlp",), methods=("dit",))
    monkeypatch.setattr(reproduce_table, "TABLES", {"fashion": table})

    def run_table(*options: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["reproduce_table.py", "--table", "fashion", "--out", str(tmp_path), *options])
        reproduce_table.main()
        return capsys.readouterr().out.splitlines()

    first = run_table("--repeats", "2")
    assert [line.split(" | ")[:4] for line in first[-2:]] == [
        ["| fashion-mini", "1", "small_mlp", "`random`"], ["| fashion-mini", "1", "small_mlp", "`dit`"],
    ]  # fmt: skip
    trained = {file: file.stat().st_mtime_ns for file in (tmp_path / "trainings").glob("*.json")}
    assert len(trained) == 4 and (tmp_path / "table.md").read_text().splitlines() == first
    assert run_table("--repeats", "2") == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "trainings").glob("*.json")} == trained
    with pytest.raises(SystemExit):
        run_table("--methods", "random")
    assert "random real images stand beside every method" in capsys.readouterr().err


def test_tables_take_the_seeds_that_all_methods_have(examples):
    from architectures_table import cases, markdown

    last = {"dit": (70.0, 71.0, 72.0), "dap": (70.5, 71.0, 73.0), "random": (60.0, 61.0), "another": (50.0,)}
    records = [
        {"ipc": 10, "network": "convnet3", "labels": "hard", "method": method, "seed": seed, "last": value}
        for method, values in last.items()
        for seed, value in enumerate(values)
    ]
    (case,) = cases(records, ("random", "dit", "dap"))
    assert case.accuracies == {"random": [60.0, 61.0], "dit": [70.0, 71.0], "dap": [70.5, 71.0]}
    text = markdown(json.loads(json.dumps(records)), ("random", "dit", "dap"))
    assert "| method | ConvNet-3 (n = 2) |" in text
    assert "| minus `dit` | ConvNet-3 |" in text and "| `random` | −10.00 [−10.00, −10.00] |\n" in text
    assert "| `dap` | +0.25 [−2.93, +3.43] ○ |" in text and "| `dit` |  |" not in text and "k_medoids" not in text


def test_the_picture_of_the_results_has_the_methods_that_none_beats_in_as_little_time(
    examples, monkeypatch, tmp_path, capsys
):
    import results_plot

    page = tmp_path / "results.md"
    monkeypatch.setattr(results_plot, "PAGE", page)
    rows = {"a": "70.0 ± 0.3 | 8 | 1 |", "b": "69.0 ± 0.3 | 8 | 1.5 |", "c:few": "72.5 ± 0.3 | 8 | 2.0 |"}
    rows |= {"d": "71.0 ± 0.3 | 8 | 1 |", "e": "80.0 ± 0.3 | 8 |  |", "k_medoids": "75.0 ± 0.3 | 8 |  |"}
    page.write_text("".join(f"| `{name}`, a remark | {row} +1.00 [+0.50, +1.50] |\n" for name, row in rows.items()))
    points, real = results_plot.read_table(page.read_text())
    assert [point.method for point in points] == ["a", "b", "c:few", "d"] and real == {"k_medoids": 75.0}
    monkeypatch.setattr(sys, "argv", ["results_plot.py", "--plot", str(tmp_path / "plot.png")])
    results_plot.main()
    assert capsys.readouterr().out.splitlines() == [
        "d: 71.0 % in 1.0 times the time of dit", "c:few: 72.5 % in 2.0 times the time of dit",
    ]  # fmt: skip
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_the_page_of_results_has_the_form_that_its_picture_is_drawn_from(examples):
    import results_plot

    points, real = results_plot.read_table(results_plot.PAGE.read_text(encoding="utf-8"))
    table = results_plot.PAGE.read_text(encoding="utf-8").split("| method | accuracy | n |")[1].split("\n\n")[0]
    assert len(results_plot.LINE.findall(table)) == table.count("\n| `") > 25, "each row is read"
    assert set(real) == set(results_plot.REAL)
    assert len(points) > 20 and next(point for point in points if point.method == "dit").time == 1


def test_a_table_of_methods_has_no_time_relative_to_real_images(examples, tmp_path):
    import compare_methods

    entries = [
        {"method": method, "seed": seed, "ipc": 10, "last": 70.0 + seed, "seconds": {"prepare": 0.0, "make": make}}
        for method, make in (("random", 0.0), ("dit", 20.0))
        for seed in range(2)
    ]
    assert compare_methods.table(entries, "random").splitlines()[-1].endswith("| 0.0 |  |")
    assert compare_methods.table(entries, "dit").splitlines()[-1].endswith("| 0.0 | 1.00 |")
    (tmp_path / "accuracies1.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries) + '{"torn')
    assert compare_methods.done(tmp_path) == {(name, seed, 10) for name in ("random", "dit") for seed in range(2)}
    other = compare_methods.table([*entries, entries[0] | {"method": "herding", "seed": 9}], "dit").splitlines()[-1]
    assert other.startswith("| herding | 70.00") and "| 1 |  |" in other  # no seed that both have
