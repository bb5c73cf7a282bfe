"""The contact sheet: one picture with a row of images for each class."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dap.data.source import Source

__all__ = ["contact_sheet", "sheet_html", "sheet_title", "source_sheet"]

MAX_CLASSES, MAX_SLOTS, GAP, MIN_TILE, MAX_TILE = 20, 20, 2, 64, 256
TITLE = 26  # height of the title


def contact_sheet(rows: Sequence[tuple[str, Sequence[Callable[[], Image.Image]]]], title: str = "") -> Image.Image:
    """Draws the first 20 images of the first 20 classes.

    Args:
        rows: For each class its name, and for each of its images a function that decodes it.
        title: A line above the images.

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
    head = TITLE if title else 0
    sheet_width = max(margin + columns * (tile + GAP), 16 + int(font.getlength(title)) if title else 0)
    sheet = Image.new("RGB", (sheet_width, head + len(rows) * (tile + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((8, head // 2), title, fill="black", font=font, anchor="lm")
    for row, (name, images) in enumerate(rows):
        top = head + row * (tile + GAP)
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


def source_sheet(source: Source, manifest: Mapping[str, Any] | None = None) -> Image.Image:
    """The contact sheet of a source's images; classes without images have no row.

    Args:
        source: The images.
        manifest: That of the run that made them; the sheet then has a title (:func:`sheet_title`).
    """
    rows = [(name, source.of_class(label).tolist()) for label, name in enumerate(source.class_names)]
    title = sheet_title(source, manifest) if manifest else ""
    return contact_sheet([(name, [partial(source.load, index) for index in row]) for name, row in rows if row], title)


def sheet_title(source: Source, manifest: Mapping[str, Any]) -> str:
    """Return method, images per class and seed of a run, and how much of it a sheet shows.

    Args:
        source: The images.
        manifest: That of the run that made them.
    """
    counts = [len(source.of_class(label)) for label in range(len(source.class_names))]
    least, most = min(counts), max(counts)
    options = manifest["options"]
    number = f"{most} image{'s' if most > 1 else ''}" if least == most else f"{least} to {most} images"
    parts = [str(options["method"]["name"]), f"{number} per class", f"seed {options['seed']}"]
    if len(counts) > MAX_CLASSES or most > MAX_SLOTS:
        parts.append(f"the first {min(most, MAX_SLOTS)} images of {min(len(counts), MAX_CLASSES)} classes")
    return ", ".join(parts)


def sheet_html(sheet: Image.Image, text: str) -> str:
    """Return a sheet below a line of text, as notebooks show it."""
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    picture, text = base64.b64encode(buffer.getvalue()).decode(), html.escape(text)
    return f'<p>{text}</p><img alt="contact sheet of {text}" src="data:image/png;base64,{picture}">'
