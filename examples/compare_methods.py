"""Compares methods by the accuracy of classifiers trained on their sets, paired by seed. Resumable.

    python examples/compare_methods.py set --out runs/tuning --seeds 1000 1004
    python examples/compare_methods.py test --out runs/test --seeds 0 24
    python examples/compare_methods.py vae --out runs/test --seeds 0 24

A group of ``compare_rows.py`` (guidance, dap, set, ...): tuning, on held-out images: 5,000 of Fashion-MNIST's training
    images that are in no split of fashion-mini. Needs the full training set (Debian's dataset-fashion-mnist).
headline, test, igd_test, others, ld3m_test, dm_test, networks_test, trained_test, newer_test, transport_test, lgd_test,
    published, scaling: the methods at their committed options, the last but one at published constants, the last with
    more time at sampling, on the 10,000 test images. With --ipc 50 the first 10 of each class, by rank and as
    numbered, are judged too.
vae: what the prior's VAE costs: the images of random, and the same through the VAE, on the 10,000 test images.

Each seed draws its own subset, latents and references, and trains one network of protocol `small` with that seed;
the accuracy is the last one. Beside it stand the metrics of `dap.metrics` against the images distilled from, and the
seconds that were spent: medians, those of making as a ratio to the baseline with the same seed. One JSON line per
training goes to OUT/accuracies*.jsonl; what is there is not done again. examples/records/accuracies.jsonl has some of
ours: copy it to OUT to continue from them. Several processes may work side by side, each with its own --part.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_rows import (
    BASELINES,
    DM_TEST,
    HEADLINE,
    IGD_TEST,
    LD3M_TEST,
    LGD_TEST,
    NETWORKS_TEST,
    NEWER_TEST,
    OTHERS,
    PUBLISHED,
    SCALING,
    TEST,
    TRAINED_TEST,
    TRANSPORT_TEST,
    TUNING,
    Rows,
)

import dap
from dap.data.open import open_source
from dap.evaluation import Small, paired_difference, run_protocol, summary
from dap.features import Tap, default_block, encode_images, real_features
from dap.metrics import coverage, diversity, representativeness
from dap.priors import load_prior
from dap.storage.cache import cache_folder
from dap.storage.ledger import Ledger

METRICS = {"representativeness": representativeness, "diversity": lambda own, _: diversity(own), "coverage": coverage}


@lru_cache
def prior() -> Any:
    return load_prior("fashion-dit")


def features(images: np.ndarray, name: str) -> np.ndarray:
    pixels, ids = torch.from_numpy(images), [str(number) for number in range(len(images))]
    return real_features(prior(), pixels, ids, label=prior().labels[name], tap=Tap(default_block(prior()))).numpy()


@lru_cache
def real_of(name: str, out: Path) -> np.ndarray:
    """Features of the images of a class that are distilled from; kept in ``out``."""
    kept = out / f"real {name.replace('/', ' ')}.npy"
    if not kept.exists():
        source = open_source("fashion-mini")
        indices = source.of_class(source.class_names.index(name))
        np.save(kept, features(source.images(indices, size=32, channels=1), name))
    return np.load(kept)


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """5,000 training images that fashion-mini does not hold: the last 500 of each class."""
    full = open_source("fashion-mnist")
    chosen = np.concatenate([full.of_class(label)[-500:] for label in range(10)])
    return full.images(chosen, size=32, channels=1), full.labels[chosen]


def test_images() -> tuple[np.ndarray, np.ndarray]:
    test = open_source("fashion-mini", split="test")
    return test.images(range(len(test)), size=32, channels=1), test.labels


def judged(pixels: torch.Tensor, labels: torch.Tensor, images: tuple[np.ndarray, np.ndarray], seed: int) -> float:
    """The last accuracy of one network of protocol small, trained on these images."""
    return run_protocol(
        pixels.numpy(), labels.numpy(), *images, classes=10, protocol=Small(checks=1), seed=seed, device="cpu"
    ).last


def measured(
    options: dict[str, Any], seed: int, images: tuple[np.ndarray, np.ndarray], ipc: int, out: Path, *, through_vae: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        distilled = dap.distill(
            "fashion-mini", prior=prior(), ipc=ipc, seed=seed, out=Path(folder) / "set", progress=False, **options
        )
        found["seconds"] = distilled.manifest["seconds"] | {"distill": round(time.monotonic() - start, 1)}
        pixels, labels = distilled.to_torch()
        if through_vae:
            pixels = prior().decode(encode_images(prior(), pixels))
        found["last"] = judged(pixels, labels, images, seed)
        if ipc == 50:
            first = torch.arange(len(labels)) % ipc < 10
            found["first 10 as numbered"] = judged(pixels[first], labels[first], images, seed)
            if "rank" in distilled.manifest:
                found["first 10 by rank"] = judged(*distilled.take(10).to_torch(), images, seed)
    own = {name: features(pixels[labels == label].numpy(), name) for label, name in enumerate(distilled.class_names)}
    for name, metric in METRICS.items():
        found[name] = float(np.mean([metric(each, real_of(label, out)) for label, each in own.items()]))
    return found


def table(entries: list[dict[str, Any]], baseline: str) -> str:
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for entry in entries:
        rows.setdefault(entry["method"], {})[entry["seed"]] = entry
    lines = [
        f"| method | accuracy | n | minus {baseline} (95 %) | representativeness | diversity | coverage "
        f"| prepare, s | make, × {baseline} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in rows.items():
        found = summary([each["last"] for each in own.values()])
        shared = [seed for seed in own if seed in rows[baseline]]
        difference = ""
        if shared and name != baseline:
            gap = paired_difference([own[s]["last"] for s in shared], [rows[baseline][s]["last"] for s in shared])
            difference = f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        metrics = [np.mean([each[metric] for each in own.values() if metric in each] or [np.nan]) for metric in METRICS]
        shown = " | ".join(f"{value:.3f}" for value in metrics)
        prepare = np.median([each["seconds"]["prepare"] for each in own.values()])
        seconds = [(own[s]["seconds"]["make"], rows[baseline][s]["seconds"]["make"]) for s in shared]
        ratios = [ours / theirs for ours, theirs in seconds if theirs]  # real images take no time
        make = f"{np.median(ratios):.2f}" if ratios else ""
        lines.append(
            f"| {name} | {found.mean:.2f} ± {found.standard_error:.2f} | {found.n} | {difference} | {shown} "
            f"| {prepare:.1f} | {make} |"
        )
    return "\n".join(lines)


def read(out: Path) -> list[dict[str, Any]]:
    return [entry for log in sorted(out.glob("accuracies*.jsonl")) for entry in Ledger(log).read()]


def done(out: Path) -> set[tuple[str, int, int]]:
    """Return the method, the seed and the images a class of each entry."""
    return {(entry["method"], entry["seed"], entry.get("ipc", 10)) for entry in read(out)}


def main() -> None:
    vae: Rows = {"random": {"method": "random"}, "random through the VAE": {"method": "random"}}
    tested = {
        "headline": HEADLINE, "test": TEST, "igd_test": IGD_TEST, "others": OTHERS, "ld3m_test": LD3M_TEST,
        "published": PUBLISHED, "dm_test": DM_TEST, "networks_test": NETWORKS_TEST, "newer_test": NEWER_TEST,
        "trained_test": TRAINED_TEST, "transport_test": TRANSPORT_TEST, "lgd_test": LGD_TEST, "scaling": SCALING,
        "vae": vae,
    }  # fmt: skip
    groups = tested | {name: BASELINES | rows for name, rows in TUNING.items()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=[*groups, "table"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 0), help="first seed, and the one after the last")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--part", default="1/1", help="i/n: this process does every n-th seed")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, args.part.split("/"))
    os.environ["DAP_CACHE"] = str(args.out / f"cache{part}")
    if args.what != "table":
        images = test_images() if args.what in tested else held_out()
        log = Ledger(args.out / f"accuracies{part}.jsonl")
        for seed in list(range(*args.seeds))[part - 1 :: parts]:
            for name, options in groups[args.what].items():
                if (name, seed, args.ipc) in done(args.out):
                    continue
                entry = {"method": name, "seed": seed, "ipc": args.ipc}
                through = name.endswith("through the VAE")
                entry |= measured(options, seed, images, args.ipc, args.out, through_vae=through)
                log.append(entry)
                print(entry, flush=True)
            shutil.rmtree(cache_folder() / "indexes", ignore_errors=True)  # of this seed's references
    entries = [each for each in read(args.out) if each.get("ipc", 10) == args.ipc]
    for baseline in ("random", "dit", "k_medoids"):
        if any(entry["method"] == baseline for entry in entries):
            print(table(entries, baseline))


if __name__ == "__main__":
    main()
