"""Measures how well unguided samples of the embedded prior teach a classifier.

    python examples/fashion_prior/quality.py --seeds 1

Protocol `small` on 500 unguided samples a class, on 500 real training images a class, and on those through the VAE,
tested on Fashion-MNIST's 10,000 test images; the headline is the last accuracy. What the VAE costs at ten a class
is measured by ``examples/compare_methods.py vae``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from dap import rng
from dap.data.open import open_source
from dap.evaluation import Small, paired_difference, summary
from dap.features import encode_images
from dap.priors import Prior, load_prior
from dap.sampling import SamplingSettings, sample
from dap.selection import random_per_class


def through_vae(prior: Prior, images: np.ndarray) -> np.ndarray:
    latents = encode_images(prior, torch.from_numpy(images))
    return torch.cat([prior.decode(batch) for batch in latents.split(250)]).numpy()


def unguided(prior: Prior, per_class: int, seed: int, settings: SamplingSettings) -> tuple[np.ndarray, np.ndarray]:
    labels = torch.arange(10).repeat_interleave(per_class)
    images = []
    for start in tqdm(range(0, len(labels), 250)):
        slots = range(start, min(start + 250, len(labels)))
        generators = [rng.generator(seed, "quality", slot) for slot in slots]
        images.append(prior.decode(sample(prior, labels[slots.start : slots.stop], generators, settings=settings)))
    return torch.cat(images).numpy(), labels.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="fashion-dit")
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    train, test = open_source("fashion-mini"), open_source("fashion-mini", split="test")
    prior = load_prior(args.prior)
    settings = SamplingSettings.choose(prior.recommended, guidance_scale=args.guidance_scale)
    test_set = test.images(range(len(test)), size=32, channels=1), test.labels
    per_class = 500
    accuracies: dict[str, list[float]] = {}
    start = time.monotonic()
    for seed in range(args.seeds):
        chosen = random_per_class(train, per_class, seed)
        real = train.images(chosen, size=32, channels=1)
        sets = {
            "real": (real, train.labels[chosen]),
            "real through the VAE": (through_vae(prior, real), train.labels[chosen]),
        }
        sets["unguided samples"] = unguided(prior, per_class, seed, settings)
        for name, (images, labels) in sets.items():
            outcome = Small(checks=1).run(
                images, labels, *test_set, classes=10, network="convnet3",
                generator=rng.generator(seed, "evaluate", "convnet3", 0), device=torch.device("cpu"),
            )  # fmt: skip
            accuracies.setdefault(name, []).append(outcome.last)
            print(f"seed {seed} {name}: {outcome.last:.2f}", flush=True)
    report: dict[str, object] = {
        "per_class": per_class,
        "seconds": round(time.monotonic() - start),
        "settings": asdict(settings),
    }
    for name, values in accuracies.items():
        report[name] = {"accuracies": values, **asdict(summary(values))}
        if name != "real":
            report[f"{name} - real"] = asdict(paired_difference(values, accuracies["real"]))
    print(json.dumps({key: value for key, value in report.items()}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
