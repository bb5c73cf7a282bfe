"""What makes ten images of a class a good set: ways to choose them among real images and among samples of the prior.

    python examples/choice_study.py --out runs/choice --seeds 1000 1004

Each row is a choice of ten images a class, judged on held-out training images as ``compare_methods.py`` judges: of the
1,000 real images of a class ("random", "k_medoids", "energy": greedily by the energy distance), or of 80 unguided
samples of it ("first", "energy", "centres": each centre of the real images' k-means takes one sample, together the
nearest; "cover": greedily so that the mean squared distance of a real image to the nearest chosen is smallest). All in
the features of the metrics. One JSON line per training goes to OUT/accuracies*.jsonl; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from compare_methods import features, held_out, judged, prior, read, real_of, table
from scipy.optimize import linear_sum_assignment

import dap
from dap.data.open import open_source
from dap.selection import k_means, k_medoids, order_towards

IPC, CANDIDATES = 10, 80


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None] - y[None]) ** 2).sum(2)


def centres(made: np.ndarray, real: np.ndarray, seed: int) -> np.ndarray:
    wanted = np.asarray(k_means(real, IPC, seed=seed).cluster_centers)
    return linear_sum_assignment(squared(wanted, made))[1]


def cover(made: np.ndarray, real: np.ndarray) -> list[int]:
    distances, nearest, chosen = squared(real, made), np.full(len(real), np.inf), []
    for _ in range(IPC):
        costs = np.minimum(nearest[:, None], distances).mean(0)
        costs[chosen] = np.inf
        chosen.append(int(costs.argmin()))
        nearest = np.minimum(nearest, distances[:, chosen[-1]])
    return chosen


def samples(seed: int, out: Path) -> np.ndarray:
    """Unguided, uint8 (10, CANDIDATES, 1, 32, 32); kept in ``out``."""
    kept = out / f"samples {seed}.npy"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            made = dap.distill(
                "fashion-mini", prior=prior(), method="dit", ipc=CANDIDATES, seed=seed, out=Path(folder) / "set",
                progress=False,
            )  # fmt: skip
            images = made.to_torch()[0].numpy()
        np.save(kept, images.reshape(len(made.class_names), CANDIDATES, *images.shape[1:]))
    return np.load(kept)


def choices(seed: int, out: Path) -> dict[str, np.ndarray]:
    """Pixels of each row, uint8 (100, 1, 32, 32), class by class."""
    source, made = open_source("fashion-mini"), samples(seed, out)
    found: dict[str, list[np.ndarray]] = {}
    for label, name in enumerate(source.class_names):
        own = source.images(source.of_class(label), size=32, channels=1)
        real, sampled = real_of(name, out), features(made[label], name)
        part = np.random.default_rng([seed, label]).permutation(len(own))
        rows = {
            "real, random": own[part[:IPC]],
            "real, k_medoids": own[k_medoids(real, IPC, seed=seed).indices],
            "real, energy of 200": own[part[:200]][order_towards(real[part[:200]], real)[:IPC]],
            "samples, first": made[label][:IPC],
            "samples, energy": made[label][order_towards(sampled, real)[:IPC]],
            "samples, centres": made[label][centres(sampled, real, seed)],
            "samples, centres, of 40": made[label][centres(sampled[:40], real, seed)],
            "samples, cover": made[label][cover(sampled, real)],
        }
        for row, images in rows.items():
            found.setdefault(row, []).append(images)
    return {row: np.concatenate(images) for row, images in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs=2, required=True, help="first seed, and the one after the last")
    parser.add_argument("--part", default="1/1", help="i/n: this process does every n-th seed")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, args.part.split("/"))
    images, labels = held_out(), torch.arange(10).repeat_interleave(IPC)
    for seed in list(range(*args.seeds))[part - 1 :: parts]:
        done = {each["method"] for each in read(args.out) if each["seed"] == seed}
        for row, pixels in choices(seed, args.out).items():
            if row not in done:
                last = judged(torch.from_numpy(pixels), labels, images, seed)
                with (args.out / f"accuracies{part}.jsonl").open("a") as file:
                    file.write(json.dumps({"method": row, "seed": seed, "last": last}) + "\n")
                print(row, seed, last, flush=True)
    print(table(read(args.out), "samples, first"))


if __name__ == "__main__":
    main()
