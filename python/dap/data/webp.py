"""The sizes that a WebP file states (RFC 9649), compared before Pillow allocates memory for them."""

from __future__ import annotations

from collections.abc import Iterator

from dap.errors import FormatError

__all__ = ["check_size", "check_webp"]


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise a :class:`FormatError` if an image of this (width, height) has more than ``max_pixels`` pixels."""
    if size[0] * size[1] > max_pixels:
        raise FormatError(f"{size[0]}×{size[1]} pixels are more than max_pixels = {max_pixels} allows")


def check_webp(data: memoryview, max_pixels: int) -> None:
    """Raise if a WebP file (RFC 9649) is truncated or too large, or if a frame's header contradicts its image.

    Pillow allocates its canvas when it opens the file, before its size can be asked for.
    """
    end = 8 + _little(data[4:8])
    if end > len(data):
        raise FormatError("webp: truncated")
    for name, content in _webp_chunks(data[12:end]):
        if size := _webp_size(name, content):
            check_size(size, max_pixels)
        if name == b"ANMF":
            frame = (_little(content[6:9]) + 1, _little(content[9:12]) + 1)
            sizes = [_webp_size(*chunk) for chunk in _webp_chunks(content[16:])]
            if any(size not in (None, frame) for size in sizes):
                raise FormatError("webp: a frame of another size than its image")


def _webp_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    while len(data) >= 8:
        name, size = bytes(data[:4]), _little(data[4:8])
        if 8 + size > len(data):
            raise FormatError(f"webp: truncated in the chunk {name!r}")
        yield name, data[8 : 8 + size]
        data = data[8 + size + size % 2 :]


def _webp_size(name: bytes, content: memoryview) -> tuple[int, int] | None:
    """Return (width, height) if a chunk gives them."""
    if name == b"VP8X":
        return _little(content[4:7]) + 1, _little(content[7:10]) + 1
    if name == b"VP8 ":
        return _little(content[6:8]) & 0x3FFF, _little(content[8:10]) & 0x3FFF
    if name == b"VP8L":
        bits = _little(content[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _little(data: memoryview) -> int:
    return int.from_bytes(data, "little")
