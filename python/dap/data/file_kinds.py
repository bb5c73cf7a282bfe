"""Kinds of files by their first bytes, for messages about files that dap cannot read as images."""

from __future__ import annotations

__all__ = ["KINDS_READ", "describe"]

KINDS_READ = "PNG, JPEG, WebP, BMP, GIF, TIFF or PNM"
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG", "a PNG file"),
    (0, b"\xff\xd8\xff", "a JPEG file"),
    (8, b"WEBP", "a WebP file"),
    (0, b"BM", "a BMP file"),
    (0, b"GIF8", "a GIF file"),
    (0, b"II*\0", "a TIFF file"),
    (0, b"MM\0*", "a TIFF file"),
    (0, b"II+\0", "a BigTIFF file"),
    (0, b"MM\0+", "a BigTIFF file"),
    (4, b"ftypavi", "an AVIF file"),
    (4, b"ftyphe", "a HEIF file"),
    (4, b"ftypmif1", "a HEIF file"),
    (0, b"\0\0\0\x0cjP", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (0, b"\0\0\0\x0cJXL", "a JPEG XL file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (0, b"DDS ", "a DDS file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"\x93NUMPY", "a NumPy file"),
    (0, b"PK\3\4", "a zip file"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, whose file `git lfs pull` fetches"),
    (0, b"<svg", "an SVG file"),
    (0, b"<?xml", "an XML file"),
    (0, b"<!DOCTYPE", "an HTML page"),
    (0, b"<!doctype", "an HTML page"),
    (0, b"<html", "an HTML page"),
)
HEAD = 32  # bytes that decide


def describe(data: bytes) -> str | None:
    """Say what a file is by its first bytes; None if they are of no known kind.

    Example:
        >>> describe(b"GIF89a..."), describe(b""), describe(b"some text")
        ('a GIF file', 'an empty file', None)
    """
    if not data:
        return "an empty file"
    return next((kind for at, magic, kind in SIGNATURES if data[at : at + len(magic)] == magic), None)
