"""Packing: labelled images into the formats that people already use, a shard at a time.

Beside the shards stands ``pack.json``: options, class names, provenance, and the SHA-256 of each file. A finished shard
is noted in a ledger, so that packing that was killed goes on after it and ends with the same bytes.
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
from typing import Any

import numpy as np

from dap._core import build_info
from dap.data.codecs import EXTENSION_OF, codec_of, decode, encode
from dap.data.folder import ImageFolderShard, card
from dap.data.names import escape
from dap.data.pack_record import PackRecord
from dap.data.parquet import ParquetShard
from dap.data.shard_writer import Record, Sample, Shard
from dap.data.sidecar import checked_tensors, digest_of, write_beside
from dap.data.source import Source
from dap.data.tensors import TensorShard
from dap.data.webdataset import WebDatasetShard
from dap.errors import FormatError, OptionError
from dap.registry import unknown_name_error
from dap.storage.files import write_atomic

__all__ = ["CODECS", "FORMATS", "pack_source", "source_samples", "write_packed"]

FORMATS: Mapping[str, type[Shard]] = {
    "imagefolder": ImageFolderShard,
    "webdataset": WebDatasetShard,
    "parquet": ParquetShard,
    "safetensors": TensorShard,
}
CODECS = ("png", "jpeg", "webp")
MAKERS = {"parquet": "pyarrow", "safetensors": "safetensors"}  # whose version decides the bytes
FOLDER_UNIT = 1000  # images of an ImageFolder between two lines of the ledger
AHEAD = 64  # images that are decoded and encoded together


def pack_source(source: Source, out: str | Path, *, format: str, **options: Any) -> dict[str, Any]:
    """Packs all images of a source; :func:`write_packed` says how, and takes the other options.

    Example:
        >>> from dap.data.open import open_source
        >>> packed = pack_source(open_source("photos"), "packed", format="webdataset")  # doctest: +SKIP
    """
    provenance = {"name": source.name, "identity": source.identity(), "images": len(source)}
    samples = source_samples(source)
    return write_packed(samples, out, format=format, class_names=source.class_names, provenance=provenance, **options)


def source_samples(source: Source) -> Iterator[Sample]:
    """The images of a source in its order, each under ``<class>/<number in its class>``."""
    counts = [0] * len(source.class_names)
    folders = [escape(name) for name in source.class_names]
    for index, label in enumerate(source.labels.tolist()):
        yield Sample(f"{folders[label]}/{counts[label]:05d}", label, partial(_encoded_or_pixels, source, index))
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
    provenance: Mapping[str, Any],
    split: str = "train",
    codec: str | None = None,
    quality: int = 95,
    maxcount: int = 100_000,
    maxsize: int = 500_000_000,
    on_error: str = "raise",
    tensors: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes labelled images as shards ``<split>-000000.<format>`` and on, or as ``<split>/<key>.<codec>``.

    Every image is decoded once, so that no damaged one gets in. One shard is in memory at most (safetensors), and else
    a row group or less. The same samples and options give the same bytes; packing again, after a kill or not, checks
    the shards that are there and makes those that are missing.

    Args:
        samples: The images; the same ones in the same order when packing is continued.
        out: The folder: new, empty, or of the same packing.
        format: "imagefolder", "webdataset", "parquet" or "safetensors".
        class_names: Names by label.
        provenance: What the images come from, as JSON; goes into ``pack.json`` and must agree when continued.
        split: What the shards or the folder are called.
        codec: "png", "jpeg" or "webp" (lossless): files of another format are encoded again. None keeps PNG, JPEG and
            WebP files as they are and writes pixels as PNG. Safetensors have pixels and no codec.
        quality: Of JPEG, 1 to 100.
        maxcount: Most images of a shard.
        maxsize: Most bytes of a shard's images (one that is larger gets a shard of its own).
        on_error: "skip" leaves out what cannot be decoded, and lists it in ``pack.json``.
        tensors: Arrays or tensors by name with a row for each sample, such as soft labels or latents; they go beside
            the shards, into ``beside.safetensors``, floats as float16.

    Returns:
        What ``pack.json`` holds: "files" with the SHA-256 of each, "images" how many, "skipped" with
        [number, message] of each that was left out.

    Raises:
        OptionError: An option is unknown or out of range.
        RunMismatchError: The folder holds something else, or a file differs from its hash.
        FormatError: An image cannot be decoded.
        SourceError: The format's package is not installed, or safetensors get images of several shapes.

    Example:
        >>> import tempfile
        >>> samples = [Sample("0/00000", 0, lambda: np.zeros((1, 8, 8), np.uint8))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     packed = write_packed(samples, folder, format="webdataset", class_names=["a"], provenance={})
        >>> packed["images"], list(packed["files"])
        (1, ['train-000000.tar'])
    """
    _check_options(format, split, codec, quality, maxcount, maxsize, on_error)
    out = Path(out)
    labels: list[int] = []  # of all samples, where tensors go along
    if tensors:
        samples = list(samples)
        labels = [sample.label for sample in samples]
    rows = checked_tensors(tensors or {}, len(labels))
    makers = ["Pillow", *([MAKERS[format]] if format in MAKERS else [])]
    header = {
        "format": format, "split": split, "codec": codec, "quality": quality, "maxcount": maxcount,
        "maxsize": maxsize, "on_error": on_error, "class_names": [*class_names], "provenance": provenance,
        "tensors": digest_of(rows) or None,
        "versions": {"dap": build_info()["version"], **{name: version(name) for name in makers}},
    }  # fmt: skip
    packing = PackRecord(out, header)
    if packing.complete is not None:
        return packing.complete
    packing.begin()
    limit = min(maxcount, FOLDER_UNIT) if format == "imagefolder" else maxcount
    shard: Shard | None = None
    count = size = index = 0
    fresh = islice(enumerate(samples), packing.consumed, None)
    try:
        with closing(_converted(fresh, codec, quality)) as converted:  # ends its threads before an error goes on
            for index, record in converted:
                if isinstance(record, FormatError):
                    if on_error == "raise":
                        raise record
                    packing.skip(index, str(record))
                    continue
                taken = record.pixels.nbytes if format == "safetensors" else len(record.data)
                if shard is not None and (count == limit or size + taken > maxsize):
                    packing.note(shard.finish(), count, index)
                    shard, count, size = None, 0, 0
                if shard is None:
                    shard = FORMATS[format](out, f"{split}-{packing.shards:06d}", class_names)
                shard.add(record)
                count, size = count + 1, size + taken
        if shard is not None:
            packing.note(shard.finish(), count, index + 1)
    except BaseException:
        if shard is not None:
            shard.discard()
        raise
    if format == "imagefolder":
        write_atomic(out / "README.md", card(split).encode())
    if rows:
        packing.note(write_beside(out, rows, labels, class_names, packing.left_out), 0, len(labels))
    return packing.finish()


def _check_options(
    format: str, split: str, codec: str | None, quality: int, maxcount: int, maxsize: int, on_error: str
) -> None:
    if format not in FORMATS:
        raise unknown_name_error("format", format, FORMATS)
    if codec is not None and codec not in CODECS:
        raise unknown_name_error("codec", codec, CODECS)
    if on_error not in ("raise", "skip"):
        raise unknown_name_error("on_error", on_error, ("raise", "skip"))
    if not re.fullmatch(r"[A-Za-z]\w*", split):
        raise OptionError(f"split: expected a word such as train, got {split!r}")
    if not (1 <= quality <= 100 and maxcount >= 1 and maxsize >= 1):
        raise OptionError(
            "expected quality from 1 to 100 and maxcount and maxsize of at least 1, "
            f"got {quality}, {maxcount} and {maxsize}"
        )


def _converted(
    samples: Iterator[tuple[int, Sample]], codec: str | None, quality: int
) -> Generator[tuple[int, Record | FormatError], None, None]:
    """The samples as records, in order: decoded and encoded in threads, a few at a time."""
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
        own = codec_of(data)
        found = codec or own or "png"
        if found != own:
            data = encode(pixels, found, quality=quality)  # type: ignore[arg-type]
    except FormatError as error:
        return FormatError(f"{sample.key}: cannot be read as an image ({error})")
    return Record(sample.key, sample.label, data, EXTENSION_OF[found], pixels)
