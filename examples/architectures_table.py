"""The tables and the picture of ``architectures_study.py``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dap.evaluation import Difference, paired_difference, summary

Record = dict[str, Any]

BASELINES = ("dit", "k_medoids", "random")
NAMES = {
    "convnet3": "ConvNet-3", "small_resnet_ap10": "ResNetAP-10, width 16", "small_vit": "ViT, 4 blocks of 64",
    "small_mlp": "MLP",
}  # fmt: skip


class Case(NamedTuple):
    """What the methods are compared on: accuracies by method, in the order of the same seeds."""

    ipc: int
    network: str
    labels: str
    accuracies: dict[str, list[float]]

    @property
    def title(self) -> str:
        return NAMES[self.network] + (", soft labels" if self.labels == "soft" else "")


def cases(outcomes: Sequence[Record], methods: Sequence[str]) -> Iterator[Case]:
    """Return the cases of some methods; the seeds of a case are those that all its methods have."""
    found: dict[tuple[int, str, str], dict[str, dict[int, float]]] = {}
    for outcome in (each for each in outcomes if each["network"] and each["method"] in methods):
        key = (outcome["ipc"], outcome["network"], outcome["labels"])
        rows = found.setdefault(key, {})
        rows.setdefault(outcome["method"], {})[outcome["seed"]] = outcome["last"]
    networks = list(NAMES)
    for ipc, network, labels in sorted(found, key=lambda key: (key[0], key[2], networks.index(key[1]))):
        rows = found[ipc, network, labels]
        shared = sorted(set.intersection(*map(set, rows.values())))
        if shared:
            own = {method: [rows[method][seed] for seed in shared] for method in methods if method in rows}
            yield Case(ipc, network, labels, own)


def minus(case: Case, method: str, baseline: str) -> Difference | None:
    """Return the paired difference of two methods; None if one is not there, or it is the same."""
    own = case.accuracies
    return None if method == baseline or baseline not in own else paired_difference(own[method], own[baseline])


def markdown(outcomes: Sequence[Record], methods: Sequence[str]) -> str:
    """Return the tables: the mean of each case and the time of the sets, then the differences to each baseline.

    Args:
        outcomes: Of sets and of trainings.
        methods: Those of the tables, in this order.
    """
    found = list(cases(outcomes, methods))
    text = []
    for ipc in sorted({case.ipc for case in found}):
        own = [case for case in found if case.ipc == ipc]
        text += [f"### {ipc} images a class", "", *_means(own, methods, _seconds(outcomes, ipc)), ""]
        for baseline in BASELINES:
            if any(baseline in case.accuracies for case in own):
                text += [*_differences(own, methods, baseline), ""]
        text += ["○: zero is in the 95 % interval, so the difference is inside the noise.", ""]
    return "\n".join(text).strip()


def _means(own: Sequence[Case], methods: Sequence[str], seconds: dict[str, float]) -> list[str]:
    head = [f"{case.title} (n = {len(next(iter(case.accuracies.values())))})" for case in own]
    lines = [f"| method | {' | '.join(head)} | seconds of a set |", "|---" * (len(own) + 2) + "|"]
    for method in methods:
        cells = [_mean(case.accuracies[method]) if method in case.accuracies else "" for case in own]
        if any(cells):
            lines.append(f"| `{method}` | {' | '.join(cells)} | {seconds.get(method, math.nan):.0f} |")
    return lines


def _seconds(outcomes: Sequence[Record], ipc: int) -> dict[str, float]:
    """Return the median seconds of a core for a set, by method, with what the cache lacked of its preparation."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if not outcome["network"] and outcome["ipc"] == ipc:
            found.setdefault(outcome["method"], []).append(outcome["seconds"])
    return {method: float(np.median(values)) for method, values in found.items()}


def _differences(own: Sequence[Case], methods: Sequence[str], baseline: str) -> list[str]:
    lines = [f"| minus `{baseline}` | {' | '.join(case.title for case in own)} |", "|---" * (len(own) + 1) + "|"]
    for method in methods:
        gaps = [minus(case, method, baseline) if method in case.accuracies else None for case in own]
        if any(gaps):
            lines.append(f"| `{method}` | {' | '.join(map(_difference, gaps))} |")
    return lines


def _mean(values: Sequence[float]) -> str:
    found = summary(values)
    return f"{found.mean:.2f}" + ("" if found.n == 1 else f" ± {found.standard_error:.2f}")


def _difference(gap: Difference | None) -> str:
    if gap is None:
        return ""
    if gap.n == 1:
        return f"{gap.mean:+.2f}"
    noise = " ○" if gap.in_noise else ""
    return f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]{noise}".replace("-", "−")


def plot(outcomes: Sequence[Record], methods: Sequence[str], file: Path) -> None:
    """Draw the differences to `dit` with their intervals; a hollow point has zero in its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = list(cases(outcomes, methods))
    sizes = sorted({case.ipc for case in found})
    titles = list(dict.fromkeys(case.title for case in found))
    figure, axes = pyplot.subplots(
        len(sizes), 1, figsize=(10, 3.6 * len(sizes)), squeeze=False, sharex=True, layout="constrained"
    )
    shown = [each for each in methods if each != BASELINES[0] and any(each in case.accuracies for case in found)]
    colours = pyplot.get_cmap("tab20" if len(shown) > 10 else "tab10")
    for axis, ipc in zip(axes[:, 0], sizes, strict=True):
        own = [case for case in found if case.ipc == ipc]
        for number, method in enumerate(shown):
            for case in own:
                gap = minus(case, method, BASELINES[0]) if method in case.accuracies else None
                if gap is None:
                    continue
                place = titles.index(case.title)
                half = gap.high - gap.mean if np.isfinite(gap.high) else 0.0
                axis.errorbar(
                    place + (number - (len(shown) - 1) / 2) * 0.8 / len(shown), gap.mean, half, marker="o", capsize=3,
                    color=colours(number), markerfacecolor="white" if gap.in_noise else colours(number), label=method,
                )  # fmt: skip
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=f"{ipc} images a class", ylabel="accuracy minus dit (points)")
        axis.set_xticks(range(len(titles)), [title.replace(", ", ",\n") for title in titles], fontsize=8)
    points = {
        label: point for axis in axes[:, 0] for point, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        [points[label] for label in shown], shown, loc="outside upper center", fontsize=8, ncols=min(len(shown), 6)
    )
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    raise SystemExit("this is a part of architectures_study.py")
