"""Compares methods by the accuracy of classifiers trained on their sets, paired by seed. Resumable.

    python examples/compare_methods.py guidance --out runs/guidance --seeds 1000 1004
    python examples/compare_methods.py scale --out runs/scale --seeds 1000 1004
    python examples/compare_methods.py test --out runs/test --seeds 0 24
    python examples/compare_methods.py vae --out runs/test --seeds 0 24

guidance, scale: tuning of the classifier-free guidance and of DAP on held-out images: 5,000 of Fashion-MNIST's training
    images that are in no split of fashion-mini. Needs the full training set (Debian's dataset-fashion-mnist).
test: random, dit and dap at their committed defaults, on the 10,000 test images.
vae: what the prior's VAE costs: the images of random, and the same through the VAE, on the 10,000 test images.

Each seed draws its own subset, latents and references, and trains one network of protocol `small` with that seed;
the accuracy is the last one.
One JSON line per training goes to OUT/accuracies.jsonl; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dap
from dap import rng
from dap.data.open import open_source
from dap.evaluation import Small, paired_difference, summary
from dap.features import encode_images
from dap.methods import DAP
from dap.priors import load_prior

TEST: dict[str, dict[str, Any]] = {name: {"method": name} for name in ("random", "dit", "dap")}
VAE: dict[str, dict[str, Any]] = {"random": {"method": "random"}, "random through the VAE": {"method": "random"}}
GUIDANCE: dict[str, dict[str, Any]] = {
    f"dit guidance={scale}": {"method": "dit", "guidance_scale": scale} for scale in (1.0, 2.0, 4.0)
}
GUIDANCE["dit"] = {"method": "dit"}  # 1.5, the prior's recommendation
SCALE: dict[str, dict[str, Any]] = {"dit": {"method": "dit"}}
SCALE |= {
    f"dap:paper scale={scale}": {"method": DAP(scale=scale, at="sample", normalise=False)} for scale in (0.01, 0.1, 1.0)
}
SCALE |= {
    f"dap scale={scale} stop={stop}": {"method": DAP(scale=scale, stop=stop)}
    for stop in (0.5, 1.0)
    for scale in (0.1, 0.3, 1.0, 3.0)
}
SCALE["dap flat scale=1.0 stop=1.0"] = {"method": DAP(scale=1.0, pooling="flat", stop=1.0)}


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """5,000 training images that fashion-mini does not hold: the last 500 of each class."""
    full = open_source("fashion-mnist")
    chosen = np.concatenate([full.of_class(label)[-500:] for label in range(10)])
    return full.images(chosen, size=32, channels=1), full.labels[chosen]


def test_images() -> tuple[np.ndarray, np.ndarray]:
    test = open_source("fashion-mini", split="test")
    return test.images(range(len(test)), size=32, channels=1), test.labels


def accuracy(
    options: dict[str, Any], seed: int, images: tuple[np.ndarray, np.ndarray], ipc: int, *, through_vae: bool
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        distilled = dap.distill("fashion-mini", ipc=ipc, seed=seed, out=Path(folder) / "set", progress=False, **options)
        seconds = time.monotonic() - start
        pixels, labels = distilled.to_torch()
        if through_vae:
            prior = load_prior("fashion-dit")
            pixels = prior.decode(encode_images(prior, pixels))
        outcome = Small(checks=1).run(
            pixels.numpy(), labels.numpy(), *images, classes=10, network="convnet3",
            generator=rng.generator(seed, "evaluate", "convnet3", 0), device=torch.device("cpu"),
        )  # fmt: skip
    return {"last": outcome.last, "seconds": round(seconds, 1)}


def table(rows: dict[str, dict[int, float]], baseline: str) -> str:
    lines = [f"| method | accuracy | n | minus {baseline} (95 %) |", "|---|---|---|---|"]
    for name, values in rows.items():
        found = summary(list(values.values()))
        shared = [seed for seed in values if seed in rows[baseline]]
        gap = paired_difference([values[s] for s in shared], [rows[baseline][s] for s in shared])
        difference = "" if name == baseline else f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        lines.append(f"| {name} | {found.mean:.2f} ± {found.standard_error:.2f} | {found.n} | {difference} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("guidance", "scale", "test", "vae"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs=2, required=True, help="first seed, and the one after the last")
    parser.add_argument("--ipc", type=int, default=10)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "accuracies.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rows: dict[str, dict[int, float]] = {}
    for entry in done:
        rows.setdefault(entry["method"], {})[entry["seed"]] = entry["last"]
    methods = {"guidance": GUIDANCE, "scale": SCALE, "test": TEST, "vae": VAE}[args.what]
    images = test_images() if args.what in ("test", "vae") else held_out()
    for seed in range(*args.seeds):
        for name, options in methods.items():
            if seed in rows.setdefault(name, {}):
                continue
            entry = {"method": name, "seed": seed}
            entry |= accuracy(options, seed, images, args.ipc, through_vae=name.endswith("through the VAE"))
            rows[name][seed] = entry["last"]
            with log.open("a") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            print(entry, flush=True)
    for baseline in ("random", "dit"):
        if baseline in rows:
            print(table(rows, baseline))


if __name__ == "__main__":
    main()
