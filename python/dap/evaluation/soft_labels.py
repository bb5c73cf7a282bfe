"""Stored soft labels: a teacher's logits of all images in all epochs, with the crops and mixes that they belong to.

The draws of an epoch depend on its number and the protocol's constants alone, so that all networks and repeats see the
same batches, and the labels of an epoch can be computed at any time. In a folder they are kept as ``labels.json``,
which says whose labels they are, and ``epoch-0000.safetensors`` … for each epoch
(:mod:`dap.evaluation.soft_label_file`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dap import rng
from dap.errors import DivergedError, FormatError, OptionError
from dap.evaluation.augment import Draws, apply, draw, draw_mix, paste
from dap.evaluation.recipe import Recipe
from dap.evaluation.soft_label_file import EpochLabels, read_epoch, write_epoch
from dap.nets.teacher import state_hash, teacher_name
from dap.storage.checked_json import ANYTHING, NUMBER, SHA256, TEXT, choice, fields, mapping, read_json, whole
from dap.storage.files import check_writable, write_json
from dap.storage.space import check_space

__all__ = ["SoftLabels", "Step", "stored_teacher"]

SEED = 42  # relabel/relabel.sh, --fkd-seed
AT_ONCE = 128  # images that the teacher sees at once
HEADER = "labels.json"
CONSTANTS = ("size", "epochs", "batch_size", "crop", "flip", "cutmix", "precision")
"""The constants on which the draws and logits depend."""
_SHAPE = fields({
    "format": choice("dap soft labels 1"), "images": whole(1), "set": SHA256, "classes": whole(1), "teacher": SHA256,
    "teacher_name": TEXT, "constants": mapping(ANYTHING), "bytes": NUMBER,
})  # fmt: skip


class Step(NamedTuple):
    """A batch: numbers of B images, int64 (B,); inputs, (B, C, S, S); the teacher's logits, float16 (B, classes)."""

    rows: Tensor
    inputs: Tensor
    logits: Tensor


class SoftLabels:
    """The soft labels of a set, from a folder, or from the teacher where the folder lacks them.

    Args:
        recipe: The training, whose ``labels`` are "stored".
        images: uint8 images (N, C, S, S), on the device.
        labels: Their class numbers, int64 (N,).
        classes: Number of classes.
        teacher: Maps normalised images to logits, in eval mode; None: the folder has all labels.
        folder: Where they are kept, made if it is not there; None: they are computed anew in each training.

    Raises:
        OptionError: The folder has the labels of another set, teacher or training, or lacks some and there is no
            teacher; or the disk has too little space.
        FormatError: The folder's header is damaged.
    """

    def __init__(
        self, recipe: Recipe, images: Tensor, labels: Tensor, classes: int, teacher: nn.Module | None,
        folder: Path | None,
    ) -> None:  # fmt: skip
        self._recipe, self._images, self._classes, self._teacher = recipe, images, classes, teacher
        self._folder = folder
        if folder is None:
            if teacher is None:
                raise OptionError("the labels are a teacher's: give teacher=, or soft_labels=, a folder that has them")
            return
        digest = hashlib.sha256(f"{list(images.shape)}".encode())
        digest.update(images.cpu().numpy().tobytes())
        digest.update(labels.cpu().numpy().astype("<i8").tobytes())
        self._set = digest.hexdigest()
        constants = {name: getattr(recipe, name) for name in CONSTANTS}
        missing = [number for number in range(recipe.epochs) if not self._file(number).is_file()]
        if not (folder / HEADER).is_file() and teacher is not None:
            size = recipe.label_bytes(len(images), classes) or 0
            check_writable(folder, "soft_labels")
            check_space(folder, size, f"soft labels of {len(images)} images take", "take another disk or fewer epochs")
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / HEADER, {
                "format": "dap soft labels 1", "images": len(images), "set": self._set, "classes": classes,
                "teacher": state_hash(teacher), "teacher_name": teacher_name(teacher), "constants": constants,
                "bytes": size,
            })  # fmt: skip
        if (folder / HEADER).is_file():
            header = _header(folder)
            self._check(header, constants)
            parts = [header[name] for name in ("set", "classes", "teacher", "constants")]
            self._labels = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        elif not missing:
            raise FormatError(f"{folder}: has soft labels, but no {HEADER}; delete the folder and give the teacher")
        if missing and teacher is None:
            raise OptionError(
                f"{folder}: has the soft labels of {recipe.epochs - len(missing)} of {recipe.epochs} epochs; give the "
                "teacher, which labels the others"
            )

    def steps(self, epoch: int) -> Iterator[Step]:
        """Yield the batches of an epoch, counted from 0; they are kept after the last one.

        Raises:
            DivergedError: The teacher's logits are not finite.
            FormatError: The file of the epoch is damaged, or of another set.
        """
        path = None if self._folder is None else self._file(epoch)
        stored = None
        if path is not None and path.is_file():
            stored = read_epoch(
                path, self._labels, epoch, shape=(len(self._images), self._classes),
                batch_size=self._recipe.batch_size, side=self._images.shape[2], size=self._recipe.size,
            )  # fmt: skip
        record = self._drawn(epoch) if stored is None else stored
        asked = []
        for number, part in enumerate(torch.arange(len(self._images)).split(self._recipe.batch_size)):
            rows = record.rows[part].long()
            draws = Draws(
                strips=torch.zeros(len(part), 2, 1, dtype=torch.int64), boxes=record.crops[part].long(),
                flips=record.flips[part], jitter=torch.zeros(len(part), 3), lighting=torch.zeros(len(part), 3),
            )  # fmt: skip
            inputs = apply(self._images, draws, self._recipe, rows=rows)
            paste(inputs, record.partners[part].long(), record.boxes[number])
            logits = self._ask(inputs) if record.logits is None else record.logits[part].to(inputs.device)
            asked.append(logits)
            yield Step(rows, inputs, logits)
        if path is not None and stored is None:
            write_epoch(path, record._replace(logits=torch.cat(asked)), self._labels, epoch)

    def _drawn(self, epoch: int) -> EpochLabels:
        generator, count, side = rng.generator(SEED, "soft labels", epoch), len(self._images), self._images.shape[2]
        rows = torch.randperm(count, generator=generator)
        crops, flips, partners, boxes = [], [], [], []
        for part in rows.split(self._recipe.batch_size):
            draws = draw(self._recipe, len(part), side, generator)
            crops.append(draws.boxes)
            flips.append(draws.flips)
            partner, box = torch.arange(len(part)), torch.zeros(4, dtype=torch.int64)
            if torch.rand((), generator=generator) < self._recipe.cutmix:
                partner, box = draw_mix(len(part), self._recipe.size, generator)
            partners.append(partner)
            boxes.append(box)
        return EpochLabels(
            rows.int(), torch.cat(crops).short(), torch.cat(flips), torch.cat(partners).int(),
            torch.stack(boxes).short(), None,
        )  # fmt: skip

    @torch.no_grad()
    def _ask(self, inputs: Tensor) -> Tensor:
        assert self._teacher is not None, "without a teacher all epochs are there"
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._recipe.precision == "bfloat16"):
            logits = torch.cat([self._teacher(part) for part in inputs.split(AT_ONCE)]).half()
        if not logits.isfinite().all():
            raise DivergedError("the teacher's logits are not finite in float16; check it with `dap teacher check`")
        return logits

    def _check(self, header: Mapping[str, object], constants: Mapping[str, object]) -> None:
        """Raise OptionError unless the labels in the folder are those of this set, teacher and training."""
        advice = "give another folder, or delete this one"
        count, there = len(self._images), header["images"]
        if header["set"] != self._set:
            differs = f"it had {there} images, this one has {count}" if there != count else "other pixels or labels"
            raise OptionError(f"{self._folder}: the soft labels are of another set ({differs}); {advice}")
        if header["classes"] != self._classes:
            raise OptionError(
                f"{self._folder}: the soft labels are of {header['classes']} classes, the set has {self._classes}; "
                f"{advice}"
            )
        if self._teacher is not None and header["teacher"] != state_hash(self._teacher):
            raise OptionError(f"{self._folder}: the soft labels are of another teacher; {advice}")
        if header["constants"] != constants:
            kept: object = header["constants"]
            assert isinstance(kept, Mapping)
            name = next(name for name in CONSTANTS if kept.get(name) != constants[name])
            raise OptionError(
                f"{self._folder}: the soft labels are of trainings with {name}={kept.get(name)}, this one has "
                f"{name}={constants[name]}; {advice}"
            )

    def _file(self, epoch: int) -> Path:
        assert self._folder is not None
        return self._folder / f"epoch-{epoch:04}.safetensors"


def stored_teacher(folder: Path) -> dict[str, object] | None:
    """Return name and hash of the teacher whose labels a folder has, as a result has them; None if it has none."""
    with suppress(FileNotFoundError):
        header = _header(folder)
        return {"name": header["teacher_name"], "accuracy": None, "sha256": header["teacher"]}
    return None


def _header(folder: Path) -> Mapping[str, object]:
    header: Mapping[str, object] = read_json(folder / HEADER, _SHAPE, advice="delete the folder and label again")
    return header
