"""A report as one page of HTML that needs no network: alerts, numbers, maps, images beside the nearest real ones."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from dap.data.source import Source
from dap.evaluation import Comparison, Judged
from dap.features import Encoder
from dap.report.charts import accuracy_rows, energy_charts, mean_energies
from dap.report.feature_map import feature_map
from dap.report.findings import ClassFindings, findings_of
from dap.report.run_parts import alerts_of, cost_table, number_table, summary_of, worst_of

__all__ = ["report_page"]

MOST_BYTES = 10_000_000  # of a page
MOST_IMAGES = 1000  # of all sets together, each shown with its real one
LARGE, FEW = 96, 200  # side of thumbnails in pixels, where there are few
SIDES = (96, 64, 48, 32, 24, 16)  # of thumbnails, in pixels; the largest with which the page is not too long
LISTS = ("files", "record", "rank", "weights", "energy")  # entries of the manifest with a line for each image or step

Picture = Callable[[Source, int], str]


@dataclass(frozen=True)
class _Run:
    """One set, the real images beside it, and what was found."""

    name: str
    source: Source
    manifest: Mapping[str, Any]
    real: Source
    findings: list[ClassFindings]
    judged: Judged | None
    most: int

    @property
    def shown(self) -> dict[str, list[tuple[int, int]]]:
        """By class the images that are shown, and the nearest real ones."""
        shown, left = {}, self.most
        for entry in self.findings:
            shown[entry.name] = entry.pairs[:left]
            left -= len(shown[entry.name])
        return {name: pairs for name, pairs in shown.items() if pairs}


def report_page(
    sets: Mapping[str, tuple[Source, Mapping[str, Any]]],
    real: Mapping[str, Source],
    encoder: Encoder,
    judged: Mapping[str, Judged] | None = None,
    evaluation: Comparison | None = None,
) -> str:
    """Return the page, of at most 10 MB: thumbnails are as small as that needs.

    Args:
        sets: Images and manifest (empty for images of others) of each set, by its name.
        real: The real images of each set, by its name.
        encoder: Its features are compared.
        judged: What a judge sees in each image of each set; None without a judge.
        evaluation: Accuracies of the sets; None: they are not shown.
    """
    share = MOST_IMAGES // len(sets)
    runs = []
    for name, (source, manifest) in sets.items():
        seen = None if judged is None else judged[name]
        findings = findings_of(source, manifest, real[name], encoder, most=share, judged=seen)
        runs.append(_Run(name, source, manifest, real[name], findings, seen, share))
    pictures = sum(2 * sum(map(len, run.shown.values())) for run in runs)
    side = LARGE if pictures <= 2 * FEW else SIDES[1]
    widest = max(len(pairs) for run in runs for pairs in run.shown.values())
    fixed = _fixed(runs, encoder, evaluation) | {
        "side": side, "wide": min(widest, 20) * (side + 8) * len(runs),
        "pixelated": max(run.source.appearance.size for run in runs) < side,
    }  # fmt: skip
    template = Environment(autoescape=True, loader=PackageLoader("dap", "report")).get_template("page.html")

    def render(picture: Picture) -> str:
        return template.render(
            **fixed,
            classes=_classes(runs, picture),
            worst=[(run.name, worst_of(run.source, run.judged, picture)) for run in runs if run.judged is not None],
        )

    bare = render(lambda source, index: "")
    most = (MOST_BYTES - len(bare.encode())) // max(1, bare.count("<img"))
    return render(lambda source, index: _thumbnail(source, index, most=most, side=side))


def _fixed(runs: list[_Run], encoder: Encoder, evaluation: Comparison | None) -> dict[str, Any]:
    """Return what the page says beside the pictures."""
    return {
        "names": [run.name for run in runs],
        "features": encoder.describe().get("model", encoder.name),  # a model of timm has a name of its own
        "runs": [
            summary_of(run.name, run.source, run.manifest, leave_out=LISTS)
            | {
                "alerts": alerts_of(run.findings), "map": feature_map(run.findings),
                "shown": sum(map(len, run.shown.values())),
                "compared": sorted({entry.compared for entry in run.findings}),
            }
            for run in runs
        ],
        "table": number_table([run.findings for run in runs]),
        "cost": cost_table([(run.manifest, len(run.source)) for run in runs]),
        "energy": energy_charts({run.name: mean_energies(run.manifest) for run in runs}),
        "evaluation": evaluation,
        "accuracies": [] if evaluation is None else accuracy_rows(evaluation),
        "judged": runs[0].judged is not None,
    }  # fmt: skip


def _classes(runs: list[_Run], picture: Picture) -> list[tuple[str, list[tuple[str, list[tuple[str, str]]]]]]:
    """Return for each class, and each set that has it, the pictures of its images and of the nearest real ones."""
    names = dict.fromkeys(name for run in runs for name in run.shown)
    return [
        (
            name,
            [
                (run.name, [(picture(run.source, made), picture(run.real, near)) for made, near in run.shown[name]])
                for run in runs
                if name in run.shown
            ],
        )
        for name in names
    ]


def _thumbnail(source: Source, index: int, *, most: int, side: int) -> str:
    """Return an image as a URL with its data, of at most ``most`` bytes; nothing if it takes more at any size."""
    pixels = source.pixels(index)
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    for size in (size for size in SIDES if size <= side):
        image.thumbnail((size, size))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=85)
        url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(url) <= most:
            return url
    return ""
