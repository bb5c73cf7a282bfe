"""The plan, the manifest, the ledger, and the executor with a method of a few lines."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import dap
from dap.data.manifest import (
    LEDGER,
    MANIFEST,
    check_same_run,
    read_ledger,
    read_manifest,
    verify_files,
    write_manifest,
)
from dap.errors import FormatError, RunMismatchError, SourceError
from dap.methods import Method
from dap.run import plan
from dap.storage.ledger import Ledger

HASH = "0" * 64
STAGES = [(1,), (5,), (10,), (1, 3), (2, 3, 7)]
CASES = list(itertools.product([1, 2, 7], STAGES, [1, 4, 100], ["slot", "class", "sequence"]))


def counts(classes, stages):
    return [(stage,) * classes for stage in stages]


def slots(units):
    return [(slot.class_index, slot.number) for unit in units for slot in unit.slots]


@pytest.mark.parametrize(("classes", "stages", "batch_size", "couples"), CASES)
def test_plan_has_every_slot_once_in_numbered_units(classes, stages, batch_size, couples):
    units = plan(counts(classes, stages), batch_size, couples)
    assert sorted(slots(units)) == list(itertools.product(range(classes), range(stages[-1])))
    assert [unit.index for unit in units] == list(range(len(units)))


@pytest.mark.parametrize(("classes", "stages", "batch_size", "couples"), CASES)
def test_plan_of_a_run_that_grew_starts_with_the_plan_before(classes, stages, batch_size, couples):
    units = plan(counts(classes, stages), batch_size, couples)
    for kept in range(1, len(stages)):
        before = plan(counts(classes, stages[:kept]), batch_size, couples)
        assert units[: len(before)] == list(before)
        assert all(number >= stages[kept - 1] for _, number in slots(units[len(before) :]))


@pytest.mark.parametrize(("classes", "stages", "batch_size"), list(itertools.product([1, 3, 7], STAGES, [1, 4, 100])))
def test_plan_of_coupled_slots_keeps_classes_whole_and_fills_the_batch_with_them(classes, stages, batch_size):
    units = iter(plan(counts(classes, stages), batch_size, "class"))
    for low, high in itertools.pairwise((0, *stages)):
        left = list(range(classes))
        while left:
            own = [number for number in range(len(left) + 1) if number * (high - low) <= batch_size]
            together = left[: max(1, own[-1])]
            assert slots([next(units)]) == list(itertools.product(together, range(low, high)))
            left = left[len(together) :]
    assert list(units) == []


@pytest.mark.parametrize(("classes", "stages", "batch_size"), list(itertools.product([1, 2, 7], STAGES, [1, 4, 100])))
def test_plan_fills_batches_and_leaves_a_short_one_only_at_the_end_of_a_stage(classes, stages, batch_size):
    sizes = [len(unit.slots) for unit in plan(counts(classes, stages), batch_size, "slot")]
    expected = []
    for low, high in itertools.pairwise((0, *stages)):
        full, rest = divmod(classes * (high - low), batch_size)
        expected += [batch_size] * full + [rest] * (rest > 0)
    assert sizes == expected


def test_plan_of_a_small_run_is_this_one():
    units = [[(slot.class_index, slot.number) for slot in unit.slots] for unit in plan(counts(2, (1, 3)), 3, "slot")]
    assert units == [[(0, 0), (1, 0)], [(0, 1), (0, 2), (1, 1)], [(1, 2)]]


def test_a_plan_of_a_billion_slots_takes_no_time():
    units = plan(counts(1000, (10**9,)), 100, "slot")
    assert len(units) == 10**10
    assert slots([units[-1]])[-1] == (999, 10**9 - 1)


def class_entry(name):
    return {"name": name, "source_id": name, "prior_label": None, "folder": name}


MANIFEST_OF_A_RUN = {
    "schema": 1, "status": "complete", "options": {"seed": 0}, "source": {"name": "a", "identity": "0", "images": 2},
    "prior": None, "class_map": [class_entry("Décolleté"), class_entry("靴")], "ipc": 1, "ipc_stages": [1],
    "batch_size": 100, "files": {f"train/{name}/00000.png": "0" * 64 for name in ("Décolleté", "靴")},
    "seconds": {"make": 0.5}, "more": "of a later version",
}  # fmt: skip


def test_manifest_comes_back_as_it_was_written(tmp_path):
    manifest = MANIFEST_OF_A_RUN
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def test_no_manifest_in_a_new_folder_nor_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    assert read_manifest(tmp_path / "new") is None
    assert read_manifest(tmp_path / "file") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"schema": 2}', '{"name": "x"}', b"\xff\xfe"])
def test_a_manifest_that_is_damaged_or_not_ours_is_named(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError, match=r"dap\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "done"), ("options", []), ("source", "/proc"), ("source", {"name": 3, "identity": "0"}),
        ("prior", "x"), ("class_map", []), ("class_map", {}), ("class_map", [class_entry("a")] * 2),
        ("class_map", [class_entry("a") | {"folder": "../a"}]), ("class_map", [class_entry("a") | {"source_id": 0.5}]),
        ("ipc", -1), ("ipc", 0), ("ipc", "x"), ("ipc", 10**9), ("ipc", True), ("ipc_stages", []), ("ipc_stages", 5),
        ("ipc_stages", [2, 1]), ("ipc_stages", [1, 1]), ("ipc_stages", [10**9]), ("batch_size", 0), ("batch_size", 1.5),
        ("files", [1]), ("files", {}), ("files", {"a": 1}), ("files", {"../a": "0" * 64}), ("seconds", [1]),
        ("seconds", {"make": "x"}), ("rank", [1]), ("rank", {"a": 5}), ("rank", {"a": [None]}), ("index", 3),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_named(tmp_path, field, value):
    stages = {"ipc_stages": [value]} if field == "ipc" else {"ipc": value[-1]} if value == [10**9] else {}
    write_manifest(tmp_path, MANIFEST_OF_A_RUN | {field: value} | stages)
    for read in (read_manifest, dap.load, dap.open_source):
        with pytest.raises(FormatError, match=rf"dap\.json: (?:ipc|{field}).*: expected .*restore it"):
            read(tmp_path)


def test_a_running_manifest_with_a_huge_ipc_is_refused_at_once(tmp_path):
    write_manifest(
        tmp_path, MANIFEST_OF_A_RUN | {"status": "running", "ipc": 10**9, "ipc_stages": [10**9], "files": {}}
    )
    with pytest.raises(SourceError, match="not finished"):
        dap.load(tmp_path)


def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(FormatError, match=r"dap\.json: expected a file"):
        dap.load(tmp_path)


def test_a_manifest_without_its_entries_is_named(tmp_path):
    (tmp_path / MANIFEST).write_text('{"schema": 1}')
    with pytest.raises(FormatError, match=r"dap\.json"):
        dap.load(tmp_path)


def test_ledger_joins_its_lines_and_a_missing_one_is_empty(tmp_path):
    assert read_ledger(tmp_path) == {}
    Ledger(tmp_path / LEDGER).append({"train/a%2Fé/00000.png": HASH, "b": HASH})
    Ledger(tmp_path / LEDGER).append({"c": HASH})
    assert read_ledger(tmp_path) == dict.fromkeys(("train/a%2Fé/00000.png", "b", "c"), HASH)


@pytest.mark.parametrize("line", ['{"a": 1}', '{"a": "0"}', '{"../a": "%s"}' % ("0" * 64), "[]", '{"a": {}}'])
def test_a_line_of_another_type_is_named(tmp_path, line):
    Ledger(tmp_path / LEDGER).append({"c": HASH})
    with (tmp_path / LEDGER).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(FormatError, match=r"dap-ledger\.jsonl: damaged, line 2: .*expected"):
        read_ledger(tmp_path)


@pytest.mark.parametrize("kept", [1, 5, -2, -1])
def test_a_torn_last_line_of_the_ledger_is_dropped_and_the_next_is_whole(tmp_path, kept):
    Ledger(tmp_path / LEDGER).append({"a": HASH})
    whole = (tmp_path / LEDGER).read_bytes()
    Ledger(tmp_path / LEDGER).append({"b": HASH})
    second = (tmp_path / LEDGER).read_bytes()[len(whole) :]
    (tmp_path / LEDGER).write_bytes(whole + second[:kept])
    assert read_ledger(tmp_path) == {"a": HASH}
    Ledger(tmp_path / LEDGER).append({"c": HASH})
    assert read_ledger(tmp_path) == {"a": HASH, "c": HASH}


def test_verify_returns_what_is_there_and_names_what_was_changed(tmp_path):
    (tmp_path / "kept").write_bytes(b"abc")
    recorded = {"kept": hashlib.sha256(b"abc").hexdigest(), "gone": "0" * 64}
    assert verify_files(tmp_path, recorded) == {"kept": recorded["kept"]}
    (tmp_path / "kept").write_bytes(b"abd")
    with pytest.raises(RunMismatchError, match="kept"):
        verify_files(tmp_path, recorded)


def test_same_run_is_silent_and_another_names_each_difference(tmp_path):
    before = {"options": {"seed": 1, "method": {"name": "dap", "scale": 0.5}}, "batch_size": 4}
    check_same_run(tmp_path, before, json.loads(json.dumps(before)))
    now = {"options": {"seed": 2, "method": {"name": "dap", "scale": 0.5, "noise": "own"}}, "batch_size": 4}
    with pytest.raises(RunMismatchError) as caught:
        check_same_run(tmp_path, before, now)
    message = str(caught.value)
    assert "options.seed: there 1, now 2" in message
    assert "options.method.noise: there null" in message
    assert "scale" not in message
    assert "batch_size" not in message
    assert str(tmp_path) in message


@dataclass(frozen=True)
class Painter(Method[None]):
    """Paints class and number of a slot, and notes the units that it made and the seeds that it was given."""

    name: ClassVar = "painter"
    paper: ClassVar = "none"
    year: ClassVar = None
    needs: ClassVar = ()
    presets: ClassVar = {}
    made: ClassVar = []
    seeds: ClassVar = {}
    couples: str = "slot"

    def prepare(self, context):
        return None

    def make(self, context, unit, artefact):
        self.made.append([(slot.class_index, slot.number) for slot in unit.slots])
        self.seeds.update(zip(unit.slots, [one.initial_seed() for one in context.generators(unit)], strict=True))
        values = [10 * slot.class_index + slot.number for slot in unit.slots]
        return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, context.channels, 8, 8)

    def record(self, context, artefact):
        return {}


@pytest.fixture
def paint(tmp_path):
    """Distils two classes by a Painter; returns the units that it made."""
    for name in "ab":
        (tmp_path / "source" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "source" / name / "0.png")

    def run(couples="slot", **options):
        Painter.made.clear()
        Painter.seeds.clear()
        dap.distill(tmp_path / "source", method=Painter(couples), **{"out": tmp_path / "out"} | options)
        return list(Painter.made)

    return run


def test_run_makes_the_units_of_the_plan_and_puts_each_slot_into_its_file(paint, tmp_path):
    made = paint(ipc=3, batch_size=4)
    assert made == [[(0, 0), (0, 1), (0, 2), (1, 0)], [(1, 1), (1, 2)]]
    for label, number in itertools.product(range(2), range(3)):
        image = np.asarray(Image.open(tmp_path / "out" / "train" / "ab"[label] / f"{number:05d}.png"))
        np.testing.assert_array_equal(image, np.full((8, 8), 10 * label + number, np.uint8))


def test_run_makes_only_units_of_which_a_file_is_missing(paint, tmp_path):
    paint(ipc=3, batch_size=4)
    assert paint(ipc=3, batch_size=4) == []
    (tmp_path / "out" / "train" / "b" / "00002.png").unlink()
    assert paint(ipc=3, batch_size=4) == [[(1, 1), (1, 2)]]


def test_seed_of_a_slot_depends_on_root_class_and_number_and_not_on_the_batch(paint, tmp_path):
    found = {}
    for seed, batch_size in itertools.product([0, 1], [1, 4]):
        paint(ipc=3, seed=seed, batch_size=batch_size, out=tmp_path / f"{seed} {batch_size}")
        found[seed, batch_size] = dict(Painter.seeds)
    assert found[0, 1] == found[0, 4]
    assert found[1, 1] == found[1, 4]
    assert len({*found[0, 1].values(), *found[1, 1].values()}) == 2 * 2 * 3


def test_run_that_grows_makes_the_new_slots_only(paint):
    paint(ipc=1, batch_size=4)
    assert paint(ipc=3, batch_size=4) == [[(0, 1), (0, 2), (1, 1), (1, 2)]]


def test_run_keeps_the_batch_size_of_the_folder_when_none_is_given(paint):
    paint(ipc=1, batch_size=1)
    assert paint(ipc=2) == [[(0, 1)], [(1, 1)]]


def test_run_refuses_to_grow_a_class_whose_slots_are_coupled(paint, tmp_path):
    assert paint("class", ipc=2, batch_size=1) == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]
    before = (tmp_path / "out" / MANIFEST).read_bytes()
    with pytest.raises(RunMismatchError, match="ipc=2 cannot grow to 3"):
        paint("class", ipc=3, batch_size=1)
    assert (tmp_path / "out" / MANIFEST).read_bytes() == before
    assert paint("class", ipc=2, batch_size=1) == []
