"""The reader of JSON that somebody else may have changed: sizes, kinds of files, and one shape for each format."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dap.errors import FormatError
from dap.storage.checked_json import (
    ANYTHING,
    BELOW,
    FLAG,
    NOTHING,
    NUMBER,
    SHA256,
    TEXT,
    choice,
    either,
    fields,
    items,
    mapping,
    read_json,
    whole,
)

SHAPE = fields(
    {"status": choice("running", "complete"), "steps": items(whole(1), least=1)},
    optional={"files": mapping(SHA256, keys=BELOW), "note": either(NOTHING, TEXT), "seconds": mapping(NUMBER)},
)


def read(folder: Path, text: str | bytes) -> object:
    path = folder / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_json(path, SHAPE, advice="write it again")


def test_content_of_the_shape_is_returned(tmp_path: Path) -> None:
    text = '{"status": "running", "steps": [1, 3], "files": {"a/b.png": "%s"}, "note": null, "seconds": {"a": 1.5}}'
    assert read(tmp_path, text % ("0" * 64)) == {
        "status": "running", "steps": [1, 3], "files": {"a/b.png": "0" * 64}, "note": None, "seconds": {"a": 1.5},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON"),
        ("\0", "expected JSON"),
        (b"\xff\xfe\xff", "expected JSON"),
        ('{"a":' * 99_999, "expected JSON"),
        ('{"status": ' + "9" * 5000 + "}", "expected JSON"),
        ("[]", r"expected an object, got \[\]"),
        ("{}", "expected an object with status, steps, got .*one without status, steps"),
        ('{"status": "running", "steps": [1], "more": 1}', "expected an object with nothing but .*more"),
        ('{"status": "done", "steps": [1]}', "status: expected 'running' or 'complete', got \"done\""),
        ('{"status": 1, "steps": [1]}', "status: expected"),
        ('{"status": "running", "steps": []}', "steps: expected a list of at least 1"),
        ('{"status": "running", "steps": {"1": 1}}', "steps: expected a list"),
        ('{"status": "running", "steps": [1, true]}', r"steps\[1\]: expected a whole number of at least 1, got true"),
        ('{"status": "running", "steps": [0]}', r"steps\[0\]: expected"),
        ('{"status": "running", "steps": [1.5]}', r"steps\[0\]: expected"),
        ('{"status": "running", "steps": [1], "files": {"../x": "%s"}}' % ("0" * 64), "a path below the folder"),
        ('{"status": "running", "steps": [1], "files": {"/etc/x": "%s"}}' % ("0" * 64), "a path below the folder"),
        ('{"status": "running", "steps": [1], "files": {"a": "0"}}', r"files\.a: expected a hash"),
        ('{"status": "running", "steps": [1], "note": 3}', "note: expected text, got 3"),
        ('{"status": "running", "steps": [1], "seconds": {"a": NaN}}', r"seconds\.a: expected a finite number"),
        (
            f'{{"status": "running", "steps": [1], "seconds": {{"a": {10**400}}}}}',
            r"seconds\.a: expected a finite number",
        ),
    ],
)
def test_other_content_is_refused_with_file_field_and_advice(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=rf"(?s)x\.json: .*{message}.*; write it again"):
        read(tmp_path, text)


def test_pipes_folders_and_large_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(FormatError, match=r"expected a file|cannot be read"):
            read_json(path, ANYTHING)
    (tmp_path / "large").write_bytes(b" " * 11)
    with pytest.raises(FormatError, match="expected at most 10 bytes, got 11"):
        read_json(tmp_path / "large", ANYTHING, most=10)


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "missing" / "x"):
        with pytest.raises(FileNotFoundError):
            read_json(path, ANYTHING)


def test_an_error_shows_no_more_than_a_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(json.dumps({"n" * 10_000: ["v" * 10_000]}))
    with pytest.raises(FormatError) as error:
        read_json(tmp_path / "x", mapping(FLAG))
    assert len(str(error.value)) < 500 + len(str(tmp_path))
