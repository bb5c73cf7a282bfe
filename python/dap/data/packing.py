"""Packing: writes labelled images as an image folder or as WebDataset, Parquet or safetensors shards.

``pack.json`` in the same folder records options, class names, provenance, and the SHA-256 of each file. Each finished
shard is noted in a ledger, so that packing that was killed continues after it and ends with the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from dap._core import build_info
from dap.config import check_choice, check_whole
from dap.data.codecs import EXTENSION_OF, codec_of, decode, encode
from dap.data.folder import ImageFolderWriter, dataset_card
from dap.data.names import check_folder_names, escape
from dap.data.open import check_outside
from dap.data.pack_record import PackRecord
from dap.data.parquet import ParquetWriter
from dap.data.shard_writer import Record, Sample, ShardWriter
from dap.data.sidecar import hash_tensors, to_stored_arrays, write_sidecar
from dap.data.source import Source
from dap.data.tensors import SafetensorsWriter
from dap.data.webdataset import WebDatasetWriter
from dap.errors import FormatError, OptionError, SourceError
from dap.storage.files import write_atomic
from dap.storage.lock import folder_lock

__all__ = ["CODECS", "FORMATS", "PackOptions", "pack_source", "source_samples", "write_packed"]

FORMATS: Mapping[str, type[ShardWriter]] = {
    "imagefolder": ImageFolderWriter,
    "webdataset": WebDatasetWriter,
    "parquet": ParquetWriter,
    "safetensors": SafetensorsWriter,
}
CODECS = ("png", "jpeg", "webp")
AHEAD = 64  # images that are decoded and encoded together


class PackOptions(TypedDict, total=False):
    """Options that :func:`pack_source` and :meth:`dap.DistilledDataset.save` hand to :func:`write_packed`."""

    codec: str | None
    quality: int
    maxcount: int
    maxsize: int
    on_error: str
    tensors: Mapping[str, object] | None


def pack_source(
    source: Source, out: str | Path, *, format: str, split: str = "train", **options: Unpack[PackOptions]
) -> dict[str, Any]:
    """Packs all images of a source with :func:`write_packed`, which documents the options.

    Example:
        >>> from dap.data.open import open_source
        >>> packed = pack_source(open_source("photos"), "packed", format="webdataset")  # doctest: +SKIP
    """
    check_outside(Path(out), source)
    provenance = {"name": source.name, "identity": source.identity(), "images": len(source)}
    samples = source_samples(source)
    return write_packed(
        samples, out, format=format, class_names=source.class_names, provenance=provenance, split=split, **options
    )


def source_samples(source: Source) -> Iterator[Sample]:
    """The images of a source in its order, with keys ``<class>/<number in its class>``."""
    counts = [0] * len(source.class_names)
    folders = [escape(name) for name in source.class_names]
    for index, label in enumerate(source.labels.tolist()):
        load, name = partial(_encoded_or_pixels, source, index), f"{source.name}/{source.ids[index]}"
        yield Sample(f"{folders[label]}/{counts[label]:05d}", label, load, name)
        counts[label] += 1


def _encoded_or_pixels(source: Source, index: int) -> bytes | np.ndarray:
    if source.read is None:
        return source.pixels(index)
    try:
        return source.read(index)
    except OSError as error:
        raise FormatError(f"{source.name}/{source.ids[index]}: cannot be read ({error})") from error


def write_packed(
    samples: Iterable[Sample],
    out: str | Path,
    *,
    format: str,
    class_names: Sequence[str],
    provenance: Mapping[str, object],
    split: str = "train",
    codec: str | None = None,
    quality: int = 95,
    maxcount: int = 100_000,
    maxsize: int = 500_000_000,
    on_error: str = "raise",
    tensors: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Writes labelled images as shards ``<split>-000000.<extension>``, ``<split>-000001.…``, or as an image folder.

    Every image is decoded once, so that no damaged image is packed. Memory holds at most one shard of safetensors, or
    one row group of Parquet. The same samples and options give the same bytes. Packing again checks the shards that
    exist and writes those that are missing. An image that cannot be packed leaves nothing in the folder.

    Args:
        samples: The images; the same ones in the same order when packing is continued.
        out: The folder: new, empty, or of the same packing.
        format: "imagefolder", "webdataset", "parquet" or "safetensors".
        class_names: Names by label.
        provenance: Where the images come from, as JSON for ``pack.json``; must be the same when packing is continued.
        split: Name of the split: the shards or the folder are named after it.
        codec: "png", "jpeg" or "webp" (lossless): files of another format are encoded again. None keeps PNG, JPEG and
            WebP files as they are and writes pixels as PNG. Safetensors store pixels and ignore the codec.
        quality: JPEG quality, 1 to 100.
        maxcount: Most images of a shard.
        maxsize: Most bytes of a shard's images; a larger image gets a shard of its own.
        on_error: "skip" leaves out images that cannot be decoded, and lists them in ``pack.json``.
        tensors: Arrays or tensors by name with a row for each sample, such as soft labels or latents; they are written
            to ``beside.safetensors`` in the same folder, floats as float16.

    Returns:
        The content of ``pack.json``: "files" (SHA-256 by path), "images" (their number), "skipped" ([number, message]
        of each image that was left out), and the options.

    Raises:
        OptionError: An option is unknown or out of range.
        RunMismatchError: The folder holds something else, or a file differs from its recorded hash.
        FormatError: An image cannot be decoded.
        SourceError: The format's package is not installed, or safetensors get images of several shapes.
        StorageError: Another process writes to the folder.

    Example:
        >>> import tempfile
        >>> samples = [Sample("0/00000", 0, lambda: np.zeros((1, 8, 8), np.uint8))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     packed = write_packed(samples, folder, format="webdataset", class_names=["a"], provenance={})
        >>> packed["images"], list(packed["files"])
        (1, ['train-000000.tar'])
    """
    _check_options(format, split, codec, quality, maxcount, maxsize, on_error)
    out, writer = Path(out), FORMATS[format]
    labels: list[int] = []  # of all samples; only needed with tensors
    if tensors:
        samples = list(samples)
        labels = [sample.label for sample in samples]
    arrays = to_stored_arrays(tensors or {}, len(labels))
    if format == "imagefolder":
        check_folder_names(class_names)
    packages = ["Pillow", *([writer.package] if writer.package else [])]
    header = {
        "format": format, "split": split, "codec": codec, "quality": quality, "maxcount": maxcount,
        "maxsize": maxsize, "on_error": on_error, "class_names": [*class_names], "provenance": provenance,
        "tensors": hash_tensors(arrays) or None,
        "versions": {"dap": build_info()["version"], **{name: version(name) for name in packages}},
    }  # fmt: skip
    with folder_lock(out):
        packing = PackRecord(out, header)
        if packing.complete is not None:
            packing.clean()
            return packing.complete
        packing.begin()
        limit = min(maxcount, writer.max_images or maxcount)
        shard: ShardWriter | None = None
        count = size = index = 0
        remaining = islice(enumerate(samples), packing.consumed, None)
        try:
            with closing(
                _converted(remaining, codec, quality)
            ) as converted:  # its threads end before an error is raised
                for index, record in converted:
                    if isinstance(record, FormatError):
                        if on_error == "raise":
                            raise record
                        packing.skip(index, str(record))
                        continue
                    record_size = writer.size(record)
                    if shard is not None and (count == limit or size + record_size > maxsize):
                        packing.note(shard.finish(), count, index)
                        shard, count, size = None, 0, 0
                    if shard is None:
                        shard = writer(out, f"{split}-{packing.shards:06d}", class_names)
                    shard.add(record)
                    count, size = count + 1, size + record_size
            if shard is not None:
                packing.note(shard.finish(), count, index + 1)
        except BaseException as error:
            if shard is not None:
                shard.discard()
            if isinstance(error, FormatError | SourceError):  # of an image
                packing.withdraw(error)
            raise
        if format == "imagefolder":
            write_atomic(out / "README.md", dataset_card(split).encode())
        if arrays:
            packing.note(write_sidecar(out, arrays, labels, class_names, packing.left_out), 0, len(labels))
        return packing.finish()


def _check_options(
    format: str, split: str, codec: str | None, quality: int, maxcount: int, maxsize: int, on_error: str
) -> None:
    check_choice("format", format, FORMATS)
    if codec is not None:
        check_choice("codec", codec, CODECS)
    check_choice("on_error", on_error, ("raise", "skip"))
    check_whole("quality", quality, 1, 100)
    check_whole("maxcount", maxcount)
    check_whole("maxsize", maxsize)
    if not re.fullmatch(r"[A-Za-z]\w*", split):
        raise OptionError(f"split: expected a word such as train, got {split!r}")


def _converted(
    samples: Iterator[tuple[int, Sample]], codec: str | None, quality: int
) -> Generator[tuple[int, Record | FormatError], None, None]:
    """The samples as records, in order, decoded and encoded in threads, ``AHEAD`` at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while ahead := list(islice(samples, AHEAD)):
            records = pool.map(partial(_convert, codec=codec, quality=quality), [sample for _, sample in ahead])
            yield from ((index, record) for (index, _), record in zip(ahead, records, strict=True))


def _convert(sample: Sample, *, codec: str | None, quality: int) -> Record | FormatError:
    try:
        value = sample.load()
    except FormatError as error:
        return error
    try:
        data, pixels = (value, decode(value).transpose(2, 0, 1)) if isinstance(value, bytes) else (b"", value)
        file_codec = codec_of(data)
        target: str = codec or file_codec or "png"
        if target != file_codec:
            data = encode(pixels, target, quality=quality)  # type: ignore[arg-type]
    except FormatError as error:
        return FormatError(f"{sample.name or sample.key}: cannot be read as an image ({error})")
    return Record(sample.key, sample.label, data, EXTENSION_OF[target], pixels)
