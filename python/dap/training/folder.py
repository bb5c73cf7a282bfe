"""The folder of a training: what is unfinished lies in ``.training``, what is finished comes out of it whole.

``.training/identity.json`` says what is being made, so that nothing else is continued there; it ends as
``training.json`` beside the result. The result is made in ``.training/finished`` and moved file by file, the record
last: a folder without it is not finished, and moving goes on after a kill.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dap.data.manifest import check_same_run
from dap.errors import FormatError, RunMismatchError
from dap.storage.files import is_vacant, move, write_atomic

__all__ = ["FINISHED", "check_folder", "training_folder"]

WORKSHOP, FINISHED, RECORD = ".training", "finished", "training.json"


def check_folder(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether this training is finished there.

    Raises:
        RunMismatchError: The folder holds another training, or something else.
        FormatError: Its record is damaged.
    """
    for record in (out / RECORD, out / WORKSHOP / "identity.json"):
        if record.is_file():
            try:
                before = json.loads(record.read_text(encoding="utf-8"))
            except ValueError as error:
                raise FormatError(f"{record}: expected JSON ({error})") from error
            check_same_run(out, before if isinstance(before, dict) else {}, identity)
            return record.name == RECORD
    if not is_vacant(out):
        raise RunMismatchError(f"{out} is not an empty folder and holds no training: choose an empty or a new folder")
    return False


@contextmanager
def training_folder(out: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """The folder to work in; when the block ends, ``finished`` in it has become ``out`` and the rest is removed."""
    workshop = out / WORKSHOP
    workshop.mkdir(parents=True, exist_ok=True)
    write_atomic(workshop / "identity.json", json.dumps(identity, indent=1, ensure_ascii=False).encode())
    yield workshop
    finished = workshop / FINISHED
    for path in sorted(finished.iterdir()):
        move(path, out / path.name)
    move(workshop / "identity.json", out / RECORD)
    shutil.rmtree(workshop)
