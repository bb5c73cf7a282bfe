"""Teachers as files, and by name: those of ``dap teacher train``, weights of others, models of torchvision and timm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dap import rng
from dap.config import check_path, check_whole
from dap.data.label_order import LabelOrder, class_order
from dap.errors import OptionError, SourceError
from dap.nets.normalisation import normal_values
from dap.nets.register import check_network, create_net
from dap.nets.teacher import Teacher
from dap.nets.teacher_library import (
    TIMM,
    TORCHVISION,
    load,
    plain_teacher,
    read_state,
    timm_teacher,
    torchvision_teacher,
)  # fmt: skip
from dap.registry import unknown_name_error
from dap.storage.checked_json import (
    FLAG,
    NOTHING,
    NUMBER,
    TEXT,
    check_shape,
    choice,
    either,
    fields,
    items,
    parse_json,
    whole,
)
from dap.storage.files import write_atomic

__all__ = ["open_teacher", "write_teacher"]

OPTIONS = ("network", "weights", "size", "class_names")
NOTE = "dap teacher"
_HEADER = fields({
    "format": choice("dap teacher 1"), "network": TEXT, "class_names": items(TEXT, 1), "channels": choice(1, 3),
    "size": whole(1), "margin": FLAG, "width": either(NOTHING, whole(1)), "norm": choice("instance", "batch"),
    "grey_padding": whole(1), "mean": items(NUMBER, 1), "std": items(NUMBER, 1), "accuracy": NUMBER,
    "measured_on": TEXT, "images": whole(1), "constants": fields({}, more=True),
})  # fmt: skip


def open_teacher(
    where: str | Path,
    *,
    network: str | None = None,
    weights: str | Path | None = None,
    size: int | None = None,
    class_names: LabelOrder | None = None,
) -> Teacher:
    """Open a teacher for protocols whose labels are a teacher's.

    Args:
        where: A file of ``dap teacher train``; a file of another program with the weights of ``network``, a safetensors
            file or a ``.pt``, which is read without running code; ``timm/NAME`` for a model of timm, or
            ``torchvision/NAME`` for one of torchvision with its ImageNet weights, which they download once.
        network: Network of a file of another program, one of :func:`dap.list_networks`.
        weights: A file to take in place of the download.
        size: Side in pixels of the images that a network of another program was trained on; 224, or timm's own, if left
            out.
        class_names: The class of each output of a network of another program, or a file of them (a name a line, or
            JSON); if left out, they are in the order of the set's classes, or ImageNet's if there are 1,000 outputs.

    Raises:
        OptionError: The name is unknown, an option is missing or does not fit, or the weights cannot be downloaded.
        SourceError: There is no such file.
        FormatError: The file is damaged, or has weights of another network.

    Example:
        >>> import dap
        >>> teacher = dap.open_teacher("teacher.safetensors")  # doctest: +SKIP
        >>> dap.evaluate("distilled", "imagenet/val", protocol="rded", teacher=teacher)  # doctest: +SKIP
    """
    if size is not None:
        check_whole("size", size)
    names = None if class_names is None else class_order(class_names)
    text = str(where)
    if text.startswith((TIMM, TORCHVISION)):
        if network is not None:
            raise OptionError(f"teacher {text}: it names its network; leave network= out")
        library = timm_teacher if text.startswith(TIMM) else torchvision_teacher
        return library(text, None if weights is None else check_path("weights", weights), size, names)
    path = check_path("teacher", where)
    if weights is not None:
        raise OptionError(f"teacher {text}: it has its weights; leave weights= out")
    if not path.is_file():
        raise SourceError(
            f"{text}: there is no such file; expected the file of a teacher, {TIMM}NAME or {TORCHVISION}NAME"
        )
    header = _header(path)
    if header is None:
        if network is None:
            raise OptionError(
                f"{text}: was not written by dap teacher train: give the network that its weights belong to"
            )
        return plain_teacher(path, network, 224 if size is None else size, names)
    for name, value in (("network", network), ("size", size), ("class_names", class_names)):
        if value is not None:
            raise OptionError(f"{text}: says its {name} itself; leave {name}= out")
    return _own(path, header)


def teacher_from_options(where: str | Path, options: Mapping[str, object]) -> Teacher:
    """Open a teacher with the options of :func:`open_teacher` by name, as the command line gives them.

    Raises:
        OptionError: An option is unknown.
    """
    for name in options:
        if name not in OPTIONS:
            raise unknown_name_error("option of a teacher", name, OPTIONS)
    values: dict[str, Any] = dict(options)
    return open_teacher(where, **values)


def write_teacher(
    path: Path, net: nn.Module, *, network: str, class_names: Sequence[str], channels: int, size: int, margin: bool,
    width: int | None, norm: str, grey_padding: int, accuracy: float, measured_on: str, images: int,
    constants: Mapping[str, object],
) -> None:  # fmt: skip
    """Write a trained network as the file of a teacher."""
    mean, std = normal_values(channels)
    header = {
        "format": "dap teacher 1", "network": network, "class_names": list(class_names), "channels": channels,
        "size": size, "margin": margin, "width": width, "norm": norm, "grey_padding": grey_padding,
        "mean": mean, "std": std, "accuracy": accuracy,
        "measured_on": measured_on, "images": images, "constants": dict(constants),
    }  # fmt: skip
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in net.state_dict().items()}
    write_atomic(path, save(tensors, metadata={NOTE: json.dumps(header)}))


def _header(path: Path) -> Mapping[str, object] | None:
    """Return the header of a file of dap; None for other files."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(NOTE)
    except SafetensorError:
        return None
    if text is None:
        return None
    header: Mapping[str, object] = parse_json(path, text.encode(), advice="train the teacher again")
    check_shape(path, header, _HEADER, advice="train the teacher again")
    return header


def _own(path: Path, header: Mapping[str, object]) -> Teacher:
    network, names, channels, size = (header[name] for name in ("network", "class_names", "channels", "size"))
    assert isinstance(network, str) and isinstance(names, list) and isinstance(channels, int) and isinstance(size, int)
    width, norm, padding = (header[name] for name in ("width", "norm", "grey_padding"))
    check_network(network)
    net = create_net(
        network, channels=channels, classes=len(names), size=size, generator=rng.generator("teacher"),
        width=width if isinstance(width, int) else None, norm=str(norm),
        first_padding=padding if isinstance(padding, int) and channels == 1 else 1,
    )  # fmt: skip
    load(net, read_state(path), path, network)
    mean, std, accuracy = header["mean"], header["std"], header["accuracy"]
    assert isinstance(mean, list) and isinstance(std, list) and isinstance(accuracy, int | float)
    return Teacher(
        net, name=path.name, outputs=len(names), class_names=names, channels=channels, size=size,
        margin=bool(header["margin"]), mean=mean, std=std, accuracy=accuracy,
    )  # fmt: skip
