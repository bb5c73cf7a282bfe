"""A report as one page of HTML that needs no network: alerts, the images beside the nearest real ones, numbers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from PIL import Image

from dap.data.source import Source
from dap.features import Encoder
from dap.report.command_text import command_of
from dap.report.contact_sheet import sheet_title
from dap.report.findings import ClassFindings, findings_of, without_alerts

__all__ = ["report_page"]

MOST_BYTES = 10_000_000  # of a page
MOST_IMAGES = 1000  # of all sets together, each shown with its real one
SIDES = (64, 48, 32, 24, 16)  # of thumbnails, in pixels; the largest with which the page is not too long
LISTS = ("files", "record", "rank")  # entries of the manifest with a line for each image


def report_page(
    sets: Mapping[str, tuple[Source, Mapping[str, Any]]],
    real: Mapping[str, Source],
    encoder: Encoder,
    recognised: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Return the page, of at most 10 MB: thumbnails are as small as that needs.

    Args:
        sets: Images and manifest (empty for images of others) of each set, by its name.
        real: The real images of each set, by its name.
        encoder: Its features are compared.
        recognised: By set and class, the share of images that a judge recognises; None without a judge.
    """
    share = MOST_IMAGES // len(sets)
    findings = {
        name: findings_of(
            source, manifest, real[name], encoder, most=share,
            recognised=None if recognised is None else recognised[name],
        )
        for name, (source, manifest) in sets.items()
    }  # fmt: skip
    template = Environment(autoescape=True).from_string(files("dap.report").joinpath("page.html").read_text("utf-8"))
    table = _table(list(findings.values()))
    features = encoder.describe().get("model", encoder.name)  # a model of timm has a name of its own

    def render(picture: Callable[[Source, int], str]) -> str:
        runs = [
            _run(
                name, *sets[name], findings[name], partial(picture, sets[name][0]), partial(picture, real[name]), share
            )
            for name in sets
        ]
        return template.render(runs=runs, features=features, table=table)

    pictures = 2 * sum(min(share, sum(len(entry.pairs) for entry in found)) for found in findings.values())
    left = (MOST_BYTES - len(render(lambda source, index: "").encode())) // max(1, pictures)
    return render(partial(_thumbnail, most=left))


def _run(
    name: str,
    source: Source,
    manifest: Mapping[str, Any],
    findings: Sequence[ClassFindings],
    made: Callable[[int], str],
    near: Callable[[int], str],
    most: int,
) -> dict[str, object]:
    """Return what the page says of a set; ``made`` and ``near`` return pictures of its images and of real ones."""
    classes, shown = [], 0
    for entry in findings:
        pairs = entry.pairs[: most - shown]
        shown += len(pairs)
        if pairs:
            classes.append((entry, [(made(index), near(real_index)) for index, real_index in pairs]))
    return {
        "name": name, "findings": findings, "clean": without_alerts(findings), "classes": classes, "shown": shown,
        "total": len(source),
        "title": sheet_title(source, manifest).partition(", the first")[0] if manifest else f"{len(source)} images",
        "command": command_of(manifest, name) if manifest else "",
        "manifest": json.dumps({key: manifest[key] for key in manifest if key not in LISTS}, indent=1),
    }  # fmt: skip


def _table(findings: Sequence[Sequence[ClassFindings]]) -> list[list[str]]:
    names = list(dict.fromkeys(entry.name for found in findings for entry in found))
    rows = []
    for name in names:
        row = [name]
        for found in findings:
            entry = next((entry for entry in found if entry.name == name), None)
            row += ["0", "", ""] if entry is None else [
                str(entry.images), _number(entry.coverage), _number(entry.diversity)
            ]  # fmt: skip
        rows.append(row)
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _thumbnail(source: Source, index: int, *, most: int) -> str:
    """Return an image as a URL with its data, of at most ``most`` bytes; nothing if it takes more at any size."""
    pixels = source.pixels(index)
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    for side in SIDES:
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=85)
        url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(url) <= most:
            return url
    return ""
