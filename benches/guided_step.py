"""Seconds per guided step over seconds per unguided step, and their independence of the source's size.

    python benches/guided_step.py

100 slots of ten classes, the embedded prior, 64 references a class. The variants take turns in one process, forwards
and backwards, so that a slow spell of the machine falls on all of them; medians over the rounds are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.data.source import Source
from dap.kernels import Linear
from dap.methods import DAP, Context
from dap.methods.dap import KernelDistance
from dap.priors import load_prior
from dap.sampling import SamplingSettings, Window, sample

STEPS, SLOTS, REFERENCES = 10, 100, 64


def shrink(source: Source, per_class: int) -> Source:
    """The same source with fewer images of each class."""
    kept = sorted(int(i) for label in range(len(source.class_names)) for i in source.of_class(label)[:per_class])
    return Source(
        source.name, source.class_names, source.source_ids, source.labels[kept], [source.ids[i] for i in kept],
        lambda index: source.load(kept[index]),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--prior", default="fashion-dit")
    args = parser.parse_args()
    prior = load_prior(args.prior)
    settings = SamplingSettings.choose(prior.recommended, num_inference_steps=STEPS)
    full = open_source("fashion-mini")
    labels = torch.arange(10).repeat_interleave(SLOTS // 10)
    third, two_thirds = prior.num_blocks // 3, 2 * prior.num_blocks // 3

    variants: dict[str, KernelDistance | None] = {"unguided": None}
    for name, images, block, pooling in (
        ("block 1/3, mean", 10_000, third, "mean"),
        ("block 1/3, flat", 10_000, third, "flat"),
        ("block 2/3, mean", 10_000, two_thirds, "mean"),
        ("block 2/3, flat", 10_000, two_thirds, "flat"),
        ("block 1/3, mean, 1,000 images", 1_000, third, "mean"),
    ):
        source = shrink(full, images // 10)
        method = DAP(block=block, pooling=pooling, references=REFERENCES, stop=1.0)
        context = Context(source, build_class_map(source, prior.labels), prior, settings, 0, 10, 32, 1)
        references = method.prepare(context)
        variants[name] = KernelDistance(references.tap, references.features, Linear(), Window(), 1.0, "eps", True)

    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for turn in range(args.rounds + 1):
        for name in order if turn % 2 else reversed(order):
            generators = [rng.generator(turn, slot) for slot in range(SLOTS)]
            term = variants[name]
            start = time.perf_counter()
            sample(prior, labels, generators, settings=settings, terms=[term] if term else [])
            if turn:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / STEPS)

    base = statistics.median(seconds["unguided"])
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{SLOTS} slots, {STEPS} steps, {args.rounds} rounds, {threads}")
    print("| variant | s per step | ratio | lowest to highest | bytes read from references per step |")
    print("|---|---|---|---|---|")
    for name, values in seconds.items():
        ratios = [value / unguided for value, unguided in zip(values, seconds["unguided"], strict=True)]
        term = variants[name]
        read = sum(f.nbytes for (step, _), f in term.references.items() if step == 0) if term else 0
        print(
            f"| {name} | {statistics.median(values):.3f} | {statistics.median(values) / base:.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {read:,} |"
        )


if __name__ == "__main__":
    main()
