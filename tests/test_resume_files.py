"""Runs whose method writes files beside the images: stopped by force at any change of the disk, and continued."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from test_resume import contents, fixture_of_kill_at  # noqa: F401
from test_run import Painter

import dap


@dataclass(frozen=True)
class Mixer(Painter):
    """Writes a file for each class, and one about all of them."""

    def files(self, context, artefact):
        names = [entry.name for entry in context.classes]
        return {f"colours/{name}.txt": name.encode() for name in names} | {"colours.txt": str(names).encode()}


@pytest.mark.parametrize("before", [[], ["a"]], ids=["new", "grown by a class"])
def test_files_of_the_method_and_the_manifest_agree_wherever_a_run_is_killed(tmp_path: Path, kill_at, before) -> None:
    for name in "ab":
        (tmp_path / "source" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "source" / name / "0.png")
    options = {"source": tmp_path / "source", "method": Mixer(), "ipc": 1, "batch_size": 1, "progress": False}
    start, expected = tmp_path / "start", tmp_path / "expected"
    if before:
        dap.distill(**options, classes=before, out=start)
        shutil.copytree(start, expected)
    dap.distill(**options, classes=["a", "b"], out=expected)
    at, going, wrong = 0, True, []
    while going:
        at += 1
        out = tmp_path / f"killed-{at}"
        if before:
            shutil.copytree(start, out)
        going = kill_at(at, **options, classes=["a", "b"], out=out)
        try:
            dap.distill(**options, classes=["a", "b"], out=out)
        except dap.errors.DapError as error:
            wrong.append(f"killed at {at}: not continued: {error}")
            continue
        if contents(out) != contents(expected):
            wrong.append(f"killed at {at}: other files")
    assert at > 20
    assert not wrong, "\n".join(wrong)
