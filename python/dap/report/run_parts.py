"""Parts of a report about single sets: alerts, numbers, cost, command, and images that a judge takes for others."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dap.data.source import Source
from dap.evaluation import Judged
from dap.report.command_text import command_of
from dap.report.contact_sheet import sheet_title
from dap.report.findings import ClassFindings

__all__ = ["Worst", "alerts_of", "cost_table", "number_table", "summary_of", "worst_of"]

WORST = 10  # images that are shown


@dataclass(frozen=True)
class Worst:
    """An image that the judge recognises least.

    Attributes:
        picture: The image as a URL.
        name: Its class.
        number: Its number in the class.
        own: The probability of its own class, in [0, 1].
        seen_as: The likeliest class.
    """

    picture: str
    name: str
    number: int
    own: float
    seen_as: str


def worst_of(source: Source, judged: Judged, picture: Callable[[Source, int], str]) -> list[Worst]:
    """Return the ten images whose own class has the smallest probability, the smallest first."""
    names = source.class_names
    return [
        Worst(
            picture(source, index), names[source.labels[index]],
            source.of_class(int(source.labels[index])).tolist().index(index), float(judged.own[index]),
            names[judged.seen_as[index]],
        )
        for index in judged.own.argsort(kind="stable")[:WORST].tolist()
    ]  # fmt: skip


def alerts_of(findings: Sequence[ClassFindings]) -> list[str]:
    """Return the alerts of all classes, each with the name of its class."""
    return [f"{entry.name}: {alert}" for entry in findings for alert in entry.alerts]


def summary_of(name: str, source: Source, manifest: Mapping[str, Any], *, leave_out: Collection[str]) -> dict[str, Any]:
    """Return name, title, number of images, command and manifest of a set; entries of the manifest can be left out."""
    return {
        "name": name,
        "total": len(source),
        "title": sheet_title(source, manifest).partition(", the first")[0] if manifest else f"{len(source)} images",
        "command": command_of(manifest, name) if manifest else "",
        "manifest": json.dumps({key: manifest[key] for key in manifest if key not in leave_out}, indent=1),
    }


def number_table(findings: Sequence[Sequence[ClassFindings]]) -> list[list[str]]:
    """Return a row for each class: its name, and of each set number of images, coverage and diversity."""
    by_name = [{entry.name: entry for entry in found} for found in findings]
    rows = []
    for name in dict.fromkeys(entry.name for found in findings for entry in found):
        row = [name]
        for entries in by_name:
            entry = entries.get(name)
            row += ["0", "–", "–"] if entry is None else [
                str(entry.images), _number(entry.coverage), _number(entry.diversity)
            ]  # fmt: skip
        rows.append(row)
    return rows


def cost_table(runs: Sequence[tuple[Mapping[str, Any], int]]) -> list[list[str]]:
    """Return rows about the time that runs took and what they computed with: a name, and a text for each run.

    Args:
        runs: Manifest, empty for images of others, and number of images of each set.
    """
    columns = [_cost(manifest, images) if manifest else {} for manifest, images in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(column.get(name, "–") for column in columns)] for name in names]


def _cost(manifest: Mapping[str, Any], images: int) -> dict[str, str]:
    seconds, options = manifest["seconds"], manifest["options"]
    made = seconds.get("make", 0.0)
    steps = (options.get("sampling") or {}).get("num_inference_steps")
    threads = manifest.get("threads")
    prior = manifest["prior"]
    rows = {
        "preparation": f"{seconds.get('prepare', 0.0):.1f} s",
        "making the images": f"{made:.1f} s, {made / images:.2f} s for each",
        "prior": "none" if prior is None else str(prior["name"]),
    }
    if steps is not None:
        rows["denoising steps"] = str(steps)
    if options.get("device"):
        rows["computed on"] = f"{options['device']}, {str(options.get('dtype')).removeprefix('torch.')}"
    if threads:
        rows["threads of the CPU"] = ", ".join(map(str, threads))
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
