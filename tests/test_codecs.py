"""Image codecs: dap decodes the same pixels as Pillow, and Pillow reads the files that dap writes."""

from __future__ import annotations

import io
import os
import select
import signal
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from dap.data.batches import ImageError, decode_batch
from dap.data.codecs import decode, decode_square, encode
from dap.data.open import open_source
from dap.data.pixels import to_pixels, to_upright
from dap.errors import FormatError

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PALETTE = np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes()
PHOTOGRAPH = Image.fromarray(load_sample_images().images[0]).crop((200, 60, 393, 200))
LOSSY = 2  # levels


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def packed(values: np.ndarray, depth: int) -> bytes:
    """Return the bytes of samples with shape (h, w, samples), each row after the byte of filter 0."""
    if depth == 16:
        rows = values.astype(">u2").reshape(len(values), -1).view(np.uint8)
    else:
        bits = np.unpackbits(values.astype(np.uint8).reshape(len(values), -1, 1), axis=2)[:, :, 8 - depth :]
        rows = np.packbits(bits.reshape(len(values), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)


def png(values: np.ndarray, colour: int, depth: int, *, interlaced: bool = False, before: bytes = b"") -> bytes:
    height, width = values.shape[:2]
    blocks = [values[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [values]
    data = b"".join(packed(block, depth) for block in blocks if block.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def check(data: bytes, levels: int = 0) -> None:
    """Compare with Pillow: in the file's own size and as squares, in grey and colour."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    decoded = decode(data)
    expected = to_upright(image, channels=decoded.shape[2])
    assert decoded.dtype == np.uint8 and decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= levels
    for channels in (1, 3):
        for size in (16, image.height):
            square = decode_square(data, size=size, channels=channels)
            assert np.abs(square.astype(int) - to_pixels(image, size=size, channels=channels)).max() <= levels


@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "adam7"])
@pytest.mark.parametrize("transparent", [False, True], ids=["opaque", "tRNS"])
@pytest.mark.parametrize(
    ("colour", "depth"),
    [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8),
     (6, 16)],
)  # fmt: skip
def test_every_kind_of_png_is_exact(colour: int, depth: int, transparent: bool, interlaced: bool) -> None:
    for width, height in ((1, 1), (5, 9), (33, 40)):
        values = np.random.default_rng(0).integers(0, 1 << depth, (height, width, SAMPLES[colour]))
        values[::3] = values[0, 0]  # so that a transparent colour is found
        before = chunk(b"PLTE", PALETTE[: 3 << depth]) if colour == 3 else b""
        if transparent and colour == 3:
            before += chunk(b"tRNS", bytes([0, 200, 90, 255])[: 1 << depth])
        elif transparent and colour in (0, 2):
            before += chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())
        before += chunk(b"gAMA", struct.pack(">I", 100_000))
        check(png(values, colour, depth, interlaced=interlaced, before=before))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.arange(0, 65536, 13)[:5041].reshape(71, 71, 1)
    np.testing.assert_array_equal(decode(png(values, 0, 16)), np.rint(values * 255 / 65535))


JPEGS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "optimized, restarts": {"optimize": True, "restart_marker_rows": 1},
    "quality 5": {"quality": 5},
    "rgb": {"keep_rgb": True},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_jpeg_that_pillow_writes(mode: str, options: dict[str, object]) -> None:
    if mode != "RGB":
        options = {name: value for name, value in options.items() if name not in ("keep_rgb", "subsampling")}
    check(saved(PHOTOGRAPH.convert(mode), "JPEG", **options), LOSSY)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.parametrize("lossless", [True, False])
def test_every_webp_that_pillow_writes(mode: str, lossless: bool) -> None:
    image = PHOTOGRAPH.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    check(saved(image, "WEBP", lossless=lossless, quality=80), 0 if lossless else LOSSY)


def test_of_an_animation_the_first_frame() -> None:
    frames = [PHOTOGRAPH, ImageOps.invert(PHOTOGRAPH)]
    for format, options in (("PNG", {}), ("PNG", {"default_image": True}), ("WEBP", {"lossless": True})):
        data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(data), np.asarray(frames[0]))
        check(data)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_exif_and_xmp_say_which_way_is_up(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if format == "WEBP" else {}
    levels = LOSSY if format == "JPEG" else 0
    data = saved(PHOTOGRAPH, format, exif=exif, **lossless)
    check(data, levels)
    turned = decode(data).shape == (PHOTOGRAPH.width, PHOTOGRAPH.height, 3)
    assert turned == (orientation in (5, 6, 7, 8))
    big_endian = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    check(saved(PHOTOGRAPH, format, exif=b"Exif\0\0" + big_endian, **lossless), levels)
    xmp = b'<x:xmpmeta xmlns:tiff="t" tiff:Orientation="%d"/>' % orientation
    if format == "PNG":
        raw = f"\nexif\n{len(big_endian):8}\n{big_endian.hex()}\n".encode()
        profile = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))
        packets = [b"\0\0\0\0" + xmp, b"\1\0\0\0" + zlib.compress(xmp)]
        texts = [chunk(b"iTXt", b"XML:com.adobe.xmp\0" + packet) for packet in packets]
        for before in (profile, *texts):
            check(png(np.asarray(PHOTOGRAPH), 2, 8, before=before))
            assert decode(png(np.asarray(PHOTOGRAPH), 2, 8, before=before)).shape == decode(data).shape
    else:
        with_xmp = saved(PHOTOGRAPH, format, xmp=xmp, **lossless)
        check(with_xmp, levels)
        assert decode(with_xmp).shape == decode(data).shape


@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish", b"", b"II*\0\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("error")
def test_damaged_exif_leaves_an_image_as_stored(exif: bytes) -> None:
    data = png(np.asarray(PHOTOGRAPH), 2, 8, before=chunk(b"eXIf", exif))
    np.testing.assert_array_equal(decode(data), np.asarray(PHOTOGRAPH))


def packaged_images() -> list[Path]:
    import matplotlib
    import skimage
    import sklearn

    folders = [
        Path(matplotlib.get_data_path(), "sample_data"),
        Path(matplotlib.get_data_path(), "images"),
        Path(skimage.__file__).parent / "data",
        Path(sklearn.__file__).parent / "datasets" / "images",
    ]
    files = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return [path for path in files if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")]


@pytest.mark.parametrize("path", packaged_images(), ids=lambda path: path.name)
def test_real_files_decode_as_pillow_decodes_them(path: Path) -> None:
    check(path.read_bytes(), 0 if path.suffix == ".png" else LOSSY)


def test_there_are_real_files() -> None:
    names = [path.name for path in packaged_images()]
    assert {"china.jpg", "flower.jpg", "grace_hopper.jpg"} <= set(names) and len(names) >= 10


def test_a_bmp_and_a_jpeg_with_rubbish_between_its_markers_go_by_pillow() -> None:
    check(saved(PHOTOGRAPH, "BMP"))
    jpeg = saved(PHOTOGRAPH, "JPEG")
    place = jpeg.index(b"\xff\xdb")
    check(jpeg[:place] + b"rubbish" + jpeg[place:], LOSSY)


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pillow_reads_what_is_written(format: str, channels: int) -> None:
    image = np.asarray(PHOTOGRAPH).transpose(2, 0, 1)[:channels]
    data = encode(image, format)  # type: ignore[arg-type]
    assert encode(np.asfortranarray(image), format) == data  # type: ignore[arg-type]
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == format.upper()
        assert opened.mode == ("L" if channels == 1 and format != "webp" else "RGB")
        pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB")).reshape(*image.shape[1:], channels)
    error = np.abs(pixels.transpose(2, 0, 1).astype(int) - image)
    assert error.max() == 0 if format != "jpeg" else error.mean() < 3
    square = decode_square(data, size=20, channels=channels)
    assert square.shape == (channels, 20, 20)


def test_quality_is_of_jpeg_and_is_checked() -> None:
    image = np.asarray(PHOTOGRAPH).transpose(2, 0, 1)
    sizes = [len(encode(image, "jpeg", quality=quality)) for quality in (1, 50, 89, 90, 100)]
    assert sizes == sorted(sizes)
    for quality in (0, 101):
        with pytest.raises(ValueError, match="quality: expected 1 to 100"):
            encode(image, "jpeg", quality=quality)
    with pytest.raises(ValueError, match="expected png or webp"):
        encode(image, "gif")  # type: ignore[arg-type]


def test_fast_png_is_little_larger_than_pillows() -> None:
    crops = [photograph[y : y + 256, x : x + 256] for photograph in load_sample_images().images
             for y in (0, 171) for x in (0, 192, 384)]  # fmt: skip
    ours = sum(len(encode(crop.transpose(2, 0, 1), "png")) for crop in crops)
    assert ours < 1.15 * sum(len(saved(Image.fromarray(crop), "PNG")) for crop in crops)


def test_dct_scaling_is_near_and_smaller_images_are_left_alone() -> None:
    image = PHOTOGRAPH.resize((600, 480), Image.Resampling.BICUBIC)
    data = saved(image, "JPEG", quality=95)
    exact = decode_square(data, size=64, channels=3)
    scaled = decode_square(data, size=64, channels=3, dct_scaling=True)
    assert not np.array_equal(exact, scaled)
    assert np.abs(exact.astype(int) - scaled).mean() < 3
    for size in (470, 480, 500):
        full = decode_square(data, size=size, channels=3)
        np.testing.assert_array_equal(decode_square(data, size=size, channels=3, dct_scaling=True), full)


FILES = [
    saved(PHOTOGRAPH.rotate(3 * index), format)
    for index in range(9)
    for format in ("PNG", "JPEG", "WEBP", "BMP")
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_a_batch_is_its_images_whatever_the_threads(threads: int | None) -> None:
    order = [*range(35, -1, -1), 3, 3]
    batch = decode_batch(FILES.__getitem__, order, size=40, channels=3, threads=threads)
    for row, index in zip(batch, order, strict=True):
        np.testing.assert_array_equal(row, decode_square(FILES[index], size=40, channels=3))
    assert decode_batch(FILES.__getitem__, [], size=40, channels=3, threads=threads).shape == (0, 3, 40, 40)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_first_damaged_image_is_named(threads: int) -> None:
    files = [*FILES]
    files[11], files[20] = files[11][:50], b"text"

    def read(index: int) -> bytes:
        if index == 30:
            raise OSError("the disk is gone")
        return files[index]

    for first, text in (
        (0, "truncated|Truncated"),
        (12, "got one of an unknown"),
        (21, "OSError: the disk is gone"),
    ):
        with pytest.raises(ImageError, match=text) as caught:
            decode_batch(read, range(first, 36), size=20, channels=3, threads=threads)
        assert caught.value.index == {0: 11, 12: 20, 21: 30}[first]


def test_reading_stays_a_little_ahead_of_decoding() -> None:
    read: list[int] = []

    def count(index: int) -> bytes:
        read.append(index)
        return b"text"

    with pytest.raises(ImageError) as caught:
        decode_batch(count, range(10_000), size=20, channels=3, threads=2)
    assert caught.value.index == 0 and len(read) < 100


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_decodes() -> None:
    expected = decode_batch(FILES.__getitem__, range(36), size=20, channels=1, threads=2)
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        again = decode_batch(FILES.__getitem__, range(36), size=20, channels=1, threads=2)
        os.write(sending, b"same" if np.array_equal(again, expected) else b"other")
        os._exit(0)
    try:
        ready, _, _ = select.select([receiving], [], [], 20)
        assert ready, "the child hangs"
        assert os.read(receiving, 9) == b"same"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(receiving)
        os.close(sending)


def test_a_signal_stops_a_long_batch() -> None:
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    data = saved(Image.fromarray(load_sample_images().images[0]), "PNG")
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.monotonic()
        with pytest.raises(Stop):
            decode_batch(lambda _: data, range(20_000), size=8, channels=1, threads=2)
        assert time.monotonic() - start < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_source_of_files_gives_the_pixels_of_its_pillow_images(tmp_path: Path) -> None:
    for index, data in enumerate(FILES[:8]):
        path = tmp_path / f"class {index % 2}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    source = open_source(tmp_path)
    order = [5, 0, 3, 3, 7]
    images = source.images(order, size=30, channels=3)
    expected = np.stack([to_pixels(source.load(index), size=30, channels=3) for index in order])
    assert np.abs(images.astype(int) - expected).max() <= LOSSY
    part = source.subset(["class 1"])
    assert part.read is not None and source.read is not None and part.read(0) == source.read(4)
    np.testing.assert_array_equal(part.images([0, 3], size=30, channels=1), source.images([4, 7], size=30, channels=1))
    (tmp_path / source.ids[6]).write_bytes(b"text")
    with pytest.raises(FormatError, match=r"class 1/5\.png: cannot be read as an image"):
        source.images(range(8), size=30, channels=3)
