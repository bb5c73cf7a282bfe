"""The contact sheet: one picture with a row of images for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from PIL import Image, ImageDraw, ImageFont

from dap.data.source import Source

__all__ = ["contact_sheet", "source_sheet"]

MAX_CLASSES, MAX_SLOTS, GAP, MIN_TILE, MAX_TILE = 20, 20, 2, 64, 256


def contact_sheet(rows: Sequence[tuple[str, Sequence[Callable[[], Image.Image]]]]) -> Image.Image:
    """Draws the first 20 images of the first 20 classes.

    Args:
        rows: For each class its name, and for each of its images a function that decodes it.

    Returns:
        An RGB image. The first image sets the size of all tiles: if it is less than 64 pixels wide, a whole multiple of
        its width, and at most 256 pixels. Images of another shape are fitted into the tile.
    """
    rows = [(name, images[:MAX_SLOTS]) for name, images in rows[:MAX_CLASSES]]
    width = rows[0][1][0]().width
    tile = min(-(-MIN_TILE // width) * width, MAX_TILE)
    font = ImageFont.load_default(size=14)
    margin = 8 + max(int(font.getlength(name)) for name, _ in rows) + 8
    columns = max(len(images) for _, images in rows)
    sheet = Image.new("RGB", (margin + columns * (tile + GAP), len(rows) * (tile + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(rows):
        top = row * (tile + GAP)
        draw.text((8, top + tile // 2), name, fill="black", font=font, anchor="lm")
        for column, image in enumerate(images):
            fitted = _fitted(image().convert("RGB"), tile)
            left, upper = (tile - fitted.width) // 2, (tile - fitted.height) // 2
            sheet.paste(fitted, (margin + column * (tile + GAP) + left, top + upper))
    return sheet


def _fitted(image: Image.Image, tile: int) -> Image.Image:
    """Return an image whose long side has the length of a tile."""
    scale = tile / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BICUBIC)


def source_sheet(source: Source) -> Image.Image:
    """The contact sheet of a source's images; classes without images have no row."""
    rows = [(name, source.of_class(label).tolist()) for label, name in enumerate(source.class_names)]
    return contact_sheet([(name, [partial(source.load, index) for index in row]) for name, row in rows if row])
