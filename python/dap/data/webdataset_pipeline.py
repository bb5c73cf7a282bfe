"""A set as a pipeline of the ``webdataset`` package, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dap.data.codecs import EXTENSION_OF, codec_of, encode
from dap.data.names import escape
from dap.data.source import Source
from dap.errors import OptionError

if TYPE_CHECKING:
    from webdataset import FluidWrapper

__all__ = ["to_pipeline"]


def to_pipeline(source: Source) -> FluidWrapper:
    """The images of a source as a pipeline of the ``webdataset`` package: ``__key__``, the file's bytes, ``cls``.

    PNG, JPEG and WebP files keep their bytes; all other images become PNG.

    Raises:
        OptionError: ``webdataset`` is not installed.
    """
    try:
        from webdataset import FluidWrapper
    except ImportError as error:
        raise OptionError("to_webdataset needs the webdataset package: pip install webdataset") from error
    counts = [0] * len(source.class_names)
    samples: list[dict[str, object]] = []
    for index, label in enumerate(source.labels.tolist()):
        data = b"" if source.read is None else source.read(index)
        codec = codec_of(data) or "png"
        if codec_of(data) is None:
            data = encode(source.pixels(index), "png")
        key = f"{escape(source.class_names[label])}/{counts[label]:05d}"
        samples.append({"__key__": key, EXTENSION_OF[codec]: data, "cls": b"%d" % label})
        counts[label] += 1
    return FluidWrapper(samples)
