"""The training folder: an unfinished training is in ``.training``; when it is finished, its files move out.

``.training/identity.json`` identifies the training, so that another one does not continue it; it becomes
``training.json`` of the finished folder. The result is written to ``.training/finished`` and then moved file by file,
``training.json`` last: a folder without it is not finished. After a kill the same call continues to move. The card of a
prior is added to the finished folder afterwards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dap.data.manifest import check_same_run
from dap.device import TRAINING_DTYPES, named_dtype
from dap.errors import DapError, RunMismatchError
from dap.storage.checked_json import ANYTHING, mapping, read_json
from dap.storage.files import is_vacant, move, write_atomic

if TYPE_CHECKING:
    import torch

__all__ = ["FINISHED", "check_folder", "precision_of_training", "recorded_dtype", "training_folder"]

UNFINISHED, FINISHED, RECORD, IDENTITY = ".training", "finished", "training.json", "identity.json"


def precision_of_training(
    dtype: torch.dtype, usual: torch.dtype, tf32: bool, device: torch.device
) -> dict[str, object]:
    """Return entries of a training's identity; none for the usual, so that trainings of earlier versions continue."""
    said: dict[str, object] = {} if dtype == usual else {"dtype": str(dtype)}
    return said | ({"tf32": True} if tf32 and device.type == "cuda" else {})


def check_folder(out: Path, identity: Mapping[str, object]) -> bool:
    """Return whether the folder holds this training, finished; False if it is unfinished or not begun.

    Raises:
        RunMismatchError: The folder holds another training, or other files.
        FormatError: Its record is damaged.
    """
    for record in (out / RECORD, out / UNFINISHED / IDENTITY):
        if record.is_file():
            check_same_run(out, read_json(record, mapping(ANYTHING)), identity)
            return record.name == RECORD
    if not is_vacant(out):
        raise RunMismatchError(f"{out}: expected an empty or new folder, or one of a training; found other files")
    return False


def recorded_dtype(out: Path) -> torch.dtype | None:
    """Return in which dtype the training in a folder computes; None if there is none, or its record is damaged.

    A record without an entry is one of bfloat16; see :func:`precision_of_training`.
    """
    for record in (out / RECORD, out / UNFINISHED / IDENTITY):
        if record.is_file():
            try:
                return named_dtype(read_json(record, mapping(ANYTHING)).get("dtype", "bfloat16"), TRAINING_DTYPES)
            except DapError:  # check_folder() says what is wrong
                return None
    return None


@contextmanager
def training_folder(out: Path, identity: Mapping[str, object]) -> Iterator[Path]:
    """Yield the folder of the unfinished training; then move the files of its ``finished`` to ``out`` and remove it."""
    unfinished = out / UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    write_atomic(unfinished / IDENTITY, json.dumps(identity, indent=1, ensure_ascii=False).encode())
    yield unfinished
    finished = unfinished / FINISHED
    for path in sorted(finished.iterdir()):
        move(path, out / path.name)
    move(unfinished / IDENTITY, out / RECORD)
    shutil.rmtree(unfinished)
