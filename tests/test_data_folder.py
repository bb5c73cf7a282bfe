"""Class-per-folder trees: layout, pixels of odd images, resize parity with ADM, corrupt files."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dap.data.open import open_source
from dap.data.source import Source
from dap.errors import FormatError, OptionError, SourceError

RNG = np.random.default_rng(0)


def save(path: Path, value: int = 0, *, shape: tuple[int, ...] = (32, 32, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    return path


def single(tmp_path: Path, image: Image.Image, name: str = "x.png", **options: object) -> Source:
    (tmp_path / "tree" / "a").mkdir(parents=True)
    image.save(tmp_path / "tree" / "a" / name, **options)
    return open_source(tmp_path / "tree")


def noise(height: int, width: int) -> np.ndarray:
    coarse = RNG.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.clip(
        coarse.repeat(8, 0).repeat(8, 1)[:height, :width].astype(int) + RNG.integers(-20, 20, (height, width, 3)),
        0,
        255,
    ).astype(np.uint8)


def adm_center_crop(array: np.ndarray, size: int) -> np.ndarray:
    """An oracle that follows the text of ADM's ``center_crop_arr`` in arrays; Pillow only resamples."""
    image = Image.fromarray(array)
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), resample=Image.BICUBIC)
    result = np.array(image)
    y, x = (result.shape[0] - size) // 2, (result.shape[1] - size) // 2
    return result[y : y + size, x : x + size]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two splits, unequal classes, an escaped name, files to pass over."""
    root = tmp_path / "set"
    for number in range(3):
        save(root / "train" / "T-shirt%2Ftop" / f"{number}.png", 10 + number)
    save(root / "train" / "bag" / "b.JPEG", 100)
    save(root / "train" / "bag" / "deep" / "a.webp", 120)
    save(root / "val" / "bag" / "x.bmp", 200)
    (root / "train" / "bag" / "notes.txt").write_text("not an image")
    save(root / "train" / "bag" / ".hidden.png")
    save(root / "train" / ".cache" / "x.png")
    return root


def test_classes_labels_and_ids(tree: Path) -> None:
    source = open_source(tree)
    assert source.class_names == ("T-shirt/top", "bag")
    assert source.source_ids == ("T-shirt%2Ftop", "bag")
    assert source.labels.dtype == np.int64 and source.labels.tolist() == [0, 0, 0, 1, 1]
    assert list(source.ids) == [
        "train/T-shirt%2Ftop/0.png", "train/T-shirt%2Ftop/1.png", "train/T-shirt%2Ftop/2.png",
        "train/bag/b.JPEG", "train/bag/deep/a.webp",
    ]  # fmt: skip
    assert len(source) == 5 and source.name == str(tree)
    assert source.of_class(1).tolist() == [3, 4]
    images = source.images([2, 0], size=32, channels=3)
    assert images.shape == (2, 3, 32, 32) and images.dtype == np.uint8
    assert [set(image.ravel().tolist()) for image in images] == [{12}, {10}]
    with pytest.raises(ValueError, match="read-only"):
        source.labels[0] = 1


def test_split_folders(tree: Path) -> None:
    inside = open_source(tree / "train")
    assert inside.class_names == open_source(str(tree)).class_names
    assert inside.ids[0] == "T-shirt%2Ftop/0.png"
    assert inside.identity() == open_source(tree).identity()
    assert open_source(tree, split="test").ids == ["val/bag/x.bmp"]
    shutil.rmtree(tree / "val")
    with pytest.raises(SourceError, match="expected a folder of labelled images for split 'test', found 'train'"):
        open_source(tree, split="test")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    save(tmp_path / "apple" / "0.png")
    save(tmp_path / "train" / "0.png")
    assert open_source(tmp_path).class_names == ("apple", "train")


def test_subset_keeps_the_sources_order(tree: Path) -> None:
    save(tree / "train" / "cup" / "0.png", 77)
    source = open_source(tree, classes=["cup", "T-shirt/top"])
    assert source.class_names == ("T-shirt/top", "cup") and source.source_ids == ("T-shirt%2Ftop", "cup")
    assert source.labels.tolist() == [0, 0, 0, 1] and source.ids[3] == "train/cup/0.png"
    assert source.images([3], size=32, channels=1).max() == 77
    whole = open_source(tree)
    assert source.identity() != whole.identity()
    assert source.identity() == whole.subset({"T-shirt/top", "cup"}).identity()
    assert whole.subset(whole.class_names).identity() == whole.identity()
    assert whole.subset("cup").class_names == ("cup",)
    with pytest.raises(OptionError, match="unknown class 'cap'; did you mean 'cup'"):
        whole.subset(["cap"])
    with pytest.raises(OptionError, match="empty"):
        whole.subset([])


def test_identity_names_the_content(tree: Path, tmp_path: Path) -> None:
    first = open_source(tree).identity()
    copied = shutil.copytree(tree, tmp_path / "elsewhere")
    assert open_source(copied).identity() == first
    (copied / "train" / "bag" / "b.JPEG").rename(copied / "train" / "bag" / "c.JPEG")
    renamed = open_source(copied).identity()
    save(copied / "train" / "bag" / "c.JPEG", shape=(64, 64, 3))
    assert len({first, renamed, open_source(copied).identity()}) == 3


def test_trees_without_classes_or_images(tree: Path, tmp_path: Path) -> None:
    for name in ("empty1", "empty2"):
        (tree / "train" / name).mkdir()
    with pytest.raises(SourceError, match="'empty1', 'empty2'"):
        open_source(tree)
    save(tmp_path / "flat" / "0.png")
    with pytest.raises(SourceError, match="one folder of images per class"):
        open_source(tmp_path / "flat")


def test_two_folders_of_one_name(tmp_path: Path) -> None:
    save(tmp_path / "a%25zz" / "0.png")  # what escape makes of "a%zz"
    save(tmp_path / "a%zz" / "0.png")  # a foreign name, taken literally
    with pytest.raises(SourceError, match="more than one class is called 'a%zz'"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(100, 75, 32), (75, 100, 32), (31, 50, 32), (33, 32, 32), (257, 700, 64), (128, 128, 32), (129, 66, 32)],
)
def test_resize_and_crop_are_adms(tmp_path: Path, height: int, width: int, size: int) -> None:
    array = noise(height, width)
    source = single(tmp_path, Image.fromarray(array))
    expected = adm_center_crop(array, size).transpose(2, 0, 1)
    np.testing.assert_array_equal(source.images([0], size=size, channels=3)[0], expected)


def test_an_image_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    array = noise(32, 32)
    source = single(tmp_path, Image.fromarray(array))
    np.testing.assert_array_equal(source.images([0], size=32, channels=3)[0], array.transpose(2, 0, 1))
    luma = array @ np.array([0.299, 0.587, 0.114])
    assert np.abs(source.images([0], size=32, channels=1)[0, 0] - luma).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    source = single(tmp_path, Image.fromarray(values))
    expected = np.rint(values / 65535 * 255)
    for channels in (1, 3):
        images = source.images([0], size=32, channels=channels)[0]
        assert all(np.array_equal(channel, expected) for channel in images)


def test_transparency_is_laid_on_black(tmp_path: Path) -> None:
    rgba = noise(32, 32)
    alpha = RNG.integers(0, 256, (32, 32, 1), np.uint8)
    source = single(tmp_path, Image.fromarray(np.concatenate([rgba, alpha], 2)))
    expected = rgba * (alpha / 255.0)
    assert np.abs(source.images([0], size=32, channels=3)[0].transpose(1, 2, 0) - expected).max() <= 1


def test_palette_grey_alpha_bilevel_and_cmyk(tmp_path: Path) -> None:
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([9, 9, 9, 250, 100, 50])
    clear = palette.copy()
    clear.info["transparency"] = 1
    cases = {
        "palette.png": (palette, (250, 100, 50)),
        "clear.png": (clear, (0, 0, 0)),
        "la.png": (Image.new("LA", (32, 32), (200, 128)), (100, 100, 100)),
        "bilevel.png": (Image.new("1", (32, 32), 1), (255, 255, 255)),
        "cmyk.jpg": (Image.new("CMYK", (32, 32), (0, 0, 0, 0)), (255, 255, 255)),
    }
    (tmp_path / "a").mkdir()
    for name, (image, _) in cases.items():
        image.save(tmp_path / "a" / name)
    source = open_source(tmp_path)
    images = source.images(range(len(source)), size=32, channels=3)
    for name, image in zip(source.ids, images, strict=True):
        expected = cases[Path(name).name][1]
        assert np.abs(image[:, 16, 16].astype(int) - expected).max() <= 1, name
        assert (image == image[:, :1, :1]).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    array = noise(32, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90° clockwise
    source = single(tmp_path, Image.fromarray(array), exif=exif)
    np.testing.assert_array_equal(
        source.images([0], size=32, channels=3)[0].transpose(1, 2, 0), np.rot90(array, k=-1, axes=(0, 1))
    )


def png_bytes() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(stream, format="PNG")
    return stream.getvalue()


def icon_bytes() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, format="ICO", bitmap_format="png")
    return stream.getvalue()


def bomb_bytes() -> bytes:
    data = bytearray(png_bytes())
    data[16:24] = (60000).to_bytes(4, "big") * 2  # the header's width and height
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [png_bytes()[:-300], png_bytes()[:20], b"", b"hello, I am text", icon_bytes(), bomb_bytes()],
    ids=["truncated", "header only", "empty", "text", "another format", "bomb"],
)
def test_a_corrupt_image_is_one_error_that_names_the_file(tree: Path, data: bytes) -> None:
    path = tree / "train" / "bag" / "deep" / "broken.png"
    path.write_bytes(data)
    source = open_source(tree)  # opening decodes nothing
    assert source.images([0], size=32, channels=1).shape == (1, 1, 32, 32)
    with pytest.raises(FormatError) as caught:
        source.images(source.of_class(1), size=32, channels=3)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_endless_strip_is_refused_before_it_is_resized(tmp_path: Path) -> None:
    source = single(tmp_path, Image.new("L", (60_000, 1)))
    with pytest.raises(FormatError, match=r"x\.png.*too long a strip"):
        source.images([0], size=256, channels=1)


def test_sizes_and_channels_are_checked(tree: Path) -> None:
    source = open_source(tree)
    for size, channels in ((0, 3), (32, 2)):
        with pytest.raises(OptionError, match="expected size >= 1 and channels 1 or 3"):
            source.images([0], size=size, channels=channels)
