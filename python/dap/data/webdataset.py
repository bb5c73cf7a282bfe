"""WebDataset: shards are tar files, and members that share a key are one sample.

A member's key is its path up to the first dot of the last part, the rest is its extension, as the ``webdataset``
package has it: ``n01440764/00000.png`` and ``n01440764/00000.cls`` are the image and the label of ``n01440764/00000``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from dap._core import TarWriter, scan_tar
from dap.data.from_labels import source_from_files
from dap.data.image_files import IMAGE_EXTENSIONS, UNREAD_EXTENSIONS, WEB_EXTENSIONS, log_skipped
from dap.data.names import some, unescape
from dap.data.shard_paths import class_names_beside
from dap.data.shard_writer import Record, ShardWriter
from dap.data.source import Source
from dap.errors import FormatError

__all__ = ["WebDatasetWriter", "open_webdataset"]

NUMBER = re.compile("[0-9]{1,18}")
KEY = re.compile(r"([^/]+)/\d{5,}")
MAX_LABEL = 1 << 20  # bytes of a member that holds a label


def open_webdataset(shards: Sequence[Path], *, name: str) -> Source:
    """Opens tar shards. Reads all headers and labels, decodes no image.

    A label is the number or text in ``cls``, or ``label``, ``class`` or ``cls`` of ``json``. Numbers get their class
    names from the ``pack.json`` or ``classes.json`` in the shards' folder, if it has one, or else from the keys, if
    these are ``class/00000`` as dap writes them. An image's id is ``shard.tar/key``.

    Samples without an image that can be read are logged, and listed in ``skipped`` of the result.

    Args:
        shards: The tar files, uncompressed.
        name: The source's name in the manifest.

    Raises:
        FormatError: A shard is damaged, or holds links, devices, paths that lead out of it, a key twice, or an image
            without a label; the message names shard and member.
        SourceError: There are no images, a label has no class name, or the folders of shards have different names.

    Example:
        >>> open_webdataset([Path("train-000000.tar")], name="mine").ids[:1]  # doctest: +SKIP
        ['train-000000.tar/0/00000']
    """
    ids: list[str] = []
    keys: list[str] = []
    texts: list[str] = []
    spans: list[np.ndarray] = []
    content = hashlib.sha256()
    skipped: list[tuple[str, str]] = []
    unique = len({shard.name for shard in shards}) == len(shards)
    for number, shard in enumerate(shards):
        shard_id = shard.name if unique else str(shard)
        samples, without_image = _samples(shard)
        skipped += [(f"{shard_id}/{key}", reason) for key, reason in without_image.items()]
        with shard.open("rb") as file:
            texts += [_label(shard, key, members, file) for key, (_, members) in samples.items()]
        keys += samples
        ids += [f"{shard_id}/{key}" for key in samples]
        images = [(number, *image) for image, _ in samples.values()]
        spans.append(np.array(images, np.int64).reshape(-1, 3))
        content.update(
            f"{shard.name} {shard.stat().st_size}\n".encode(errors="surrogateescape") + "\n".join(samples).encode()
        )
    log_skipped(name, skipped)
    labels, names = _numbers_or_text(name, texts, shards)
    read = partial(_read, list(shards), np.concatenate(spans) if spans else np.empty((0, 3), np.int64))
    source = source_from_files(name, labels, names, read, ids=ids, digest=content.hexdigest(), skipped=skipped)
    name_of = _names_in_keys(keys, labels) if names is None and labels is not texts else None
    return replace(source, class_names=tuple(name_of[label] for label in source.source_ids)) if name_of else source


def _numbers_or_text(
    name: str, texts: list[str], shards: Sequence[Path]
) -> tuple[Sequence[int | str], list[str] | None]:
    """The labels and, if they are numbers, the class names beside the shards.

    "007" is a number where there are class names by number; else it is a name, and another one than "7".
    """
    numbers = [text for text in texts if NUMBER.fullmatch(text)]
    if len(numbers) < len(texts):
        if numbers:
            text = next(text for text in texts if not NUMBER.fullmatch(text))
            raise FormatError(
                f"{name}: expected labels that are all numbers or all text, got both: {numbers[0]!r} and {text!r}"
            )
        return texts, None
    names = class_names_beside(shards) if shards else None
    if names is None and any(str(int(text)) != text for text in set(texts)):
        return texts, None
    return [int(text) for text in texts], names


def _names_in_keys(keys: Sequence[str], labels: Sequence[int | str]) -> dict[int | str, str] | None:
    """The class name of each label, from keys such as ``T-shirt%2Ftop/00012``; None unless the two fit one to one."""
    matches = [KEY.fullmatch(key) for key in keys]
    folders = [match[1] for match in matches if match is not None]
    pairs = set(zip(labels, folders, strict=False))
    if len(folders) < len(keys) or len(pairs) < 2 or not len(pairs) == len(set(folders)) == len(set(labels)):
        return None
    return {label: unescape(folder) for label, folder in pairs}


Span = tuple[int, int]  # first byte and size of a member


def _samples(shard: Path) -> tuple[dict[str, tuple[Span, dict[str, Span]]], dict[str, str]]:
    """The image and the members by extension of each key that has an image, in the shard's order.

    And by key, why a sample that should have an image has none that is read.
    """
    names, offsets, sizes = scan_tar(shard)
    grouped: dict[str, dict[str, Span]] = {}
    last = None
    for name, offset, size in zip(names, offsets.tolist(), sizes.tolist(), strict=True):
        folder, slash, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        key = folder + slash + stem
        if not stem or not dot or (name.startswith("__") and name.endswith("__")):
            continue
        if key != last and key in grouped:
            raise FormatError(f"{shard}: expected the members of {key!r} once and next to each other")
        last, members = key, grouped.setdefault(key, {})
        if extension.lower() in members:
            raise FormatError(f"{shard}: more than one member {extension.lower()!r} of {key!r}")
        members[extension.lower()] = (offset, size)
    samples, skipped = {}, {}
    for key, members in grouped.items():
        if image := _image_extension(shard, key, members):
            samples[key] = (members[image], members)
        elif unread := [extension for extension in members if _kind(extension) in UNREAD_EXTENSIONS]:
            skipped[key] = _kind(unread[0])
        elif "json" in members and len(members) > 1:
            skipped[key] = "a sample without an image"
    return samples, skipped


def _kind(extension: str) -> str:
    """The file extension of a member: ``.png`` of ``left.png``."""
    return "." + extension.rpartition(".")[2]


def _image_extension(shard: Path, key: str, members: Mapping[str, Span]) -> str | None:
    for kinds in (WEB_EXTENSIONS, IMAGE_EXTENSIONS):  # a sample may have a depth map as TIFF beside its photograph
        images = [extension for extension in members if _kind(extension) in kinds]
        if len(images) == 1:
            return images[0]
        if images:
            break
    if images or "cls" in members:
        raise FormatError(
            f"{shard}: expected one image of {key!r}, found {some(images) or 'none'} in {some([*members])}"
        )
    return None  # neither image nor label: not a labelled image


def _label(shard: Path, key: str, members: Mapping[str, Span], file: IO[bytes]) -> str:
    extension = "cls" if "cls" in members else "json"
    if extension not in members:
        raise FormatError(f"{shard}: {key!r} has no label: expected a member cls, or json, found {some([*members])}")
    offset, size = members[extension]
    if size > MAX_LABEL:
        raise FormatError(f"{shard}: the {extension} of {key!r} has {size} bytes, expected a label")
    file.seek(offset)
    try:
        text = file.read(size).decode()
        value = text.strip() if extension == "cls" else _json_label(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{shard}: the {extension} of {key!r} holds no label ({error})") from error
    if value == "":
        raise FormatError(f"{shard}: the {extension} of {key!r} is empty, expected a label")
    return value


def _json_label(text: str) -> str:
    value = json.loads(text)
    for name in ("label", "class", "cls"):
        if isinstance(value, dict) and isinstance(value.get(name), int | str):
            return value[name] if isinstance(value[name], str) else f"{value[name]:d}"
    raise ValueError("expected an object with label, class or cls")


def _read(shards: Sequence[Path], spans: np.ndarray, index: int) -> bytes:
    shard, offset, size = spans[index].tolist()
    with shards[shard].open("rb", buffering=0) as file:  # opened anew: threads and forked children share no position
        file.seek(offset)
        data: bytes = file.read(size)
    if len(data) != size:
        raise FormatError(f"expected {size} bytes at byte {offset} of {shards[shard]}, got {len(data)}")
    return data


class WebDatasetWriter(ShardWriter):
    """Writes a tar file that ``webdataset`` reads."""

    def __init__(self, folder: Path, name: str, class_names: Sequence[str]) -> None:
        super().__init__(folder, f"{name}.tar", class_names)
        self._writer = TarWriter(folder / self.name)

    def add(self, record: Record) -> None:
        """Adds label and image, in the order of their extensions, as ``webdataset`` writes them."""
        members = [(f"{record.key}.cls", b"%d" % record.label), (f"{record.key}.{record.extension}", record.data)]
        self._writer.append(members)

    def finish(self) -> Mapping[str, str]:
        """Makes the shard durable."""
        return {self.name: self._writer.finish()}

    def discard(self) -> None:
        """Deletes the shard."""
        self._writer.discard()
