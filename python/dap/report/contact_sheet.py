"""The contact sheet: one row for each class, its slots from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

__all__ = ["contact_sheet"]

MAX_CLASSES, MAX_SLOTS, GAP, MIN_TILE = 20, 20, 2, 64


def contact_sheet(rows: Sequence[tuple[str, Sequence[Path]]]) -> Image.Image:
    """Draws the first 20 images of the first 20 classes.

    Args:
        rows: Class name and image files, for each class.

    Returns:
        An RGB image; small images are enlarged by a whole factor, pixels kept square.
    """
    rows = [(name, paths[:MAX_SLOTS]) for name, paths in rows[:MAX_CLASSES]]
    with Image.open(rows[0][1][0]) as first:
        factor = -(-MIN_TILE // first.width)
        tile = first.width * factor
    font = ImageFont.load_default(size=14)
    margin = 8 + max(int(font.getlength(name)) for name, _ in rows) + 8
    columns = max(len(paths) for _, paths in rows)
    sheet = Image.new("RGB", (margin + columns * (tile + GAP), len(rows) * (tile + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, paths) in enumerate(rows):
        top = row * (tile + GAP)
        draw.text((8, top + tile // 2), name, fill="black", font=font, anchor="lm")
        for column, path in enumerate(paths):
            with Image.open(path) as image:
                enlarged = image.convert("RGB").resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (margin + column * (tile + GAP), top))
    return sheet
