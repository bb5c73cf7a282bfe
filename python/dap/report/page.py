"""A report as one page of HTML that needs no network: alerts, the images beside the nearest real ones, numbers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
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

MOST_IMAGES = 1000  # of all sets together; each takes up to 4 kB with its real one, as a thumbnail
THUMBNAIL = 64  # pixels


def report_page(
    sets: Mapping[str, tuple[Source, Mapping[str, Any]]],
    real: Mapping[str, Source],
    encoder: Encoder,
    recognised: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Return the page.

    Args:
        sets: Images and manifest (empty for images of others) of each set, by its name.
        real: The real images of each set, by its name.
        encoder: Its features are compared.
        recognised: By set and class, the share of images that a judge recognises; None without a judge.
    """
    runs, findings = [], {}
    for name, (source, manifest) in sets.items():
        found = findings_of(
            source, manifest, real[name], encoder, most=MOST_IMAGES // len(sets),
            recognised=None if recognised is None else recognised[name],
        )  # fmt: skip
        findings[name] = found
        classes = [
            (entry, [(_thumbnail(source, made), _thumbnail(real[name], near)) for made, near in entry.pairs])
            for entry in found
        ]
        runs.append({
            "name": name, "findings": found, "clean": without_alerts(found), "classes": classes, "total": len(source),
            "shown": sum(len(entry.pairs) for entry in found),
            "title": sheet_title(source, manifest).partition(", the first")[0] if manifest else f"{len(source)} images",
            "command": command_of(manifest, name) if manifest else "",
            "manifest": json.dumps({key: manifest[key] for key in manifest if key != "files"}, indent=1),
        })  # fmt: skip
    template = Environment(autoescape=True).from_string(files("dap.report").joinpath("page.html").read_text("utf-8"))
    described = ", ".join(f"{key} {value}" for key, value in encoder.describe().items())
    return template.render(runs=runs, features=described, table=_table(list(findings.values())))


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


def _thumbnail(source: Source, index: int) -> str:
    pixels = source.pixels(index)
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
