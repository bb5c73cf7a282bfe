"""The folder from which an evaluation continues: outcomes of finished trainings, checkpoints of unfinished ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dap.evaluation.protocol import Outcome, TestImages
from dap.nets.teacher import update_state_hash
from dap.storage.checked_json import NUMBER, fields, read_json
from dap.storage.files import write_atomic

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Entry", "Kept"]

HASHED = 256  # test images at a time
_OUTCOME = fields({"last": NUMBER, "best": NUMBER})


@dataclass(frozen=True)
class Entry:
    """The files of one training."""

    folder: Path
    name: str

    @property
    def checkpoint(self) -> Path:
        """Where its checkpoints are written."""
        return self.folder / f"{self.name}.safetensors"

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def outcome(self) -> Outcome | None:
        """Return the outcome if the training was finished.

        Raises:
            FormatError: The file is damaged.
        """
        if not self._file.is_file():
            return None
        values = read_json(self._file, _OUTCOME, advice="delete it to train again")
        self.checkpoint.unlink(missing_ok=True)  # there is one if the process was killed before it removed it
        return Outcome(last=float(values["last"]), best=float(values["best"]))

    def finish(self, outcome: Outcome) -> None:
        """Keep the outcome, and remove the checkpoint."""
        write_atomic(self._file, json.dumps(outcome._asdict()).encode())
        self.checkpoint.unlink(missing_ok=True)


class Kept:
    """The folder of an evaluation; several evaluations may share one.

    Args:
        folder: It is made if it is not there.
        test: Test images and labels, which are read once.
        classes: Number of classes.
        teacher: The teacher; None: there is none.
    """

    def __init__(self, folder: Path, test: TestImages, classes: int, teacher: nn.Module | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        images, labels = test
        digest = hashlib.sha256(f"{classes}".encode())
        digest.update(labels.astype("<i8").tobytes())
        for start in range(0, len(labels), HASHED):
            rows = np.arange(start, min(start + HASHED, len(labels)))
            digest.update((images(rows) if callable(images) else images[rows]).tobytes())
        if teacher is not None:
            update_state_hash(digest, teacher)
        self._test = digest.hexdigest()

    def entry(self, key: tuple[object, ...], images: np.ndarray, labels: np.ndarray) -> Entry:
        """Return the files of the training with these constants on these images."""
        digest = hashlib.sha256(json.dumps([self._test, *key, list(images.shape)]).encode())
        digest.update(images.tobytes())
        digest.update(labels.astype("<i8").tobytes())
        return Entry(self._folder, digest.hexdigest()[:32])
