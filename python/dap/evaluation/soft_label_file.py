"""The file of an epoch of soft labels, with these tensors for N images, M of which are in a batch:

    rows        int32 (N,)          numbers of the images, in the order of the epoch; each M are a batch
    crops       int16 (N, 4)        top, left, height and width of the part that is shown, in pixels
    flips       bool (N,)           whether it is mirrored
    partners    int32 (N,)          CutMix: the place in its batch of the image that the box comes from
    boxes       int16 (N / M, 4)    CutMix: top, left, bottom and right of the box of a batch; all 0 without one
    logits      float16 (N, classes)

They are laid out by rows and not by images, as in SRe2L's relabel/utils_fkd.py, which keeps the same for each batch.
"""  # noqa: D415 - the table follows

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dap.errors import FormatError
from dap.storage.files import write_atomic

__all__ = ["EpochLabels", "read_epoch", "write_epoch"]

DTYPES = (torch.int32, torch.int16, torch.bool, torch.int32, torch.int16, torch.float16)


class EpochLabels(NamedTuple):
    """The tensors of the module's table; ``logits`` are None as long as the teacher was not asked."""

    rows: Tensor
    crops: Tensor
    flips: Tensor
    partners: Tensor
    boxes: Tensor
    logits: Tensor | None


def write_epoch(path: Path, record: EpochLabels, labels: str, epoch: int) -> None:
    """Write the file of an epoch.

    Args:
        path: The file.
        record: Its tensors.
        labels: The hash of what the labels depend on.
        epoch: Number of the epoch.
    """
    tensors = {name: value.cpu().contiguous() for name, value in record._asdict().items()}
    write_atomic(path, save(tensors, metadata={"labels": labels, "epoch": str(epoch)}))


def read_epoch(
    path: Path, labels: str, epoch: int, *, shape: tuple[int, int], batch_size: int, side: int, size: int
) -> EpochLabels:
    """Read the file of an epoch.

    Args:
        path: The file.
        labels: The hash of what the labels depend on.
        epoch: Number of the epoch.
        shape: Numbers of images and classes.
        batch_size: Images of a batch.
        side: Side of the images in pixels.
        size: Side of the network's images in pixels.

    Raises:
        FormatError: It is damaged, or of other labels.
    """
    advice = "delete it, and it is computed again"
    try:
        with safe_open(path, framework="pt") as file:
            notes, record = file.metadata(), EpochLabels(*map(file.get_tensor, EpochLabels._fields))
    except (SafetensorError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: damaged soft labels ({error}); {advice}") from error
    if notes != {"labels": labels, "epoch": str(epoch)}:
        raise FormatError(f"{path}: soft labels of another set or epoch; {advice}")
    images, batches = shape[0], -(-shape[0] // batch_size)
    shapes = ((images,), (images, 4), (images,), (images,), (batches, 4), shape)
    for (name, value), dtype, expected in zip(record._asdict().items(), DTYPES, shapes, strict=True):
        if value.dtype != dtype or tuple(value.shape) != expected:
            raise FormatError(
                f"{path}: {name}: expected {dtype} {expected}, got {value.dtype} {tuple(value.shape)}; {advice}"
            )
    if not _in_range(record, batch_size, side, size):
        raise FormatError(f"{path}: damaged soft labels (crops, boxes or numbers out of range); {advice}")
    return record


def _in_range(record: EpochLabels, batch_size: int, side: int, size: int) -> bool:
    """Return whether each image is there once, and all places are inside of batches and images."""
    places, crops = torch.arange(len(record.rows)), record.crops.int()
    lengths = (places // batch_size + 1).mul(batch_size).clamp(max=len(places)) - places // batch_size * batch_size
    return bool(
        (record.rows.sort().values == places).all()
        and (record.partners >= 0).all()
        and (record.partners < lengths).all()
        and (crops[:, :2] >= 0).all()
        and (crops[:, 2:] > 0).all()
        and (crops[:, :2] + crops[:, 2:] <= side).all()
        and (record.boxes >= 0).all()
        and (record.boxes <= size).all()
        and (record.boxes[:, :2] <= record.boxes[:, 2:]).all()
    )
