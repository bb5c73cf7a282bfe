"""Seconds per guided step over seconds per unguided step, and their independence of the source's size.

    python benches/guided_step.py
    python benches/guided_step.py --source fashion-mnist --sizes 1000 6000 60000 --recompute

100 slots of ten classes, the embedded prior, 64 references a class. The variants take turns in one process, forwards
and backwards, so that a slow spell of the machine falls on all of them; medians over the rounds are compared.

--recompute also runs what a method without an index has to do: the features of the same references are computed again
at each step, from their latents.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping

import torch

from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.data.source import Source
from dap.features import DEFAULT_POOLING, encode_images, noised_features
from dap.kernels import Linear
from dap.methods import DAP, Context
from dap.methods.common.feature_guide import References
from dap.methods.dap import KernelDistanceTerm
from dap.priors import load_prior
from dap.sampling import SamplingSettings, Window, sample

STEPS, SLOTS, REFERENCES = 10, 100, 64


class Recomputed(Mapping):
    """Features of the references by (step, label), computed when they are asked for."""

    def __init__(self, context: Context, references: References) -> None:
        self.prior, self.tap = context.require_prior(), references.tap
        self.scheduler = self.prior.scheduler(context.settings.scheduler, STEPS)
        self.latents = {}
        for entry in context.classes:
            ids = references.ids[entry.name]
            places = {image_id: place for place, image_id in enumerate(context.source.ids)}
            images = context.images([places[image_id] for image_id in ids])
            self.latents[entry.prior_label] = (encode_images(self.prior, images), ids)

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        step, label = key
        latents, ids = self.latents[label]
        timestep = int(self.scheduler.timesteps[step])
        return noised_features(
            self.prior, latents, ids, label=label, tap=self.tap, scheduler=self.scheduler, timestep=timestep, seed=0
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return itertools.product(range(STEPS), self.latents)

    def __len__(self) -> int:
        return STEPS * len(self.latents)


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
    parser.add_argument("--source", default="fashion-mini")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--recompute", action="store_true")
    args = parser.parse_args()
    prior = load_prior(args.prior)
    settings = SamplingSettings.choose(prior.recommended, num_inference_steps=STEPS)
    full = open_source(args.source)
    labels = torch.arange(10).repeat_interleave(SLOTS // 10)
    depth = len(prior.block_names)
    third, two_thirds = depth // 3, 2 * depth // 3

    def prepare(block: int, pooling: str, images: int) -> tuple[Context, References]:
        source = shrink(full, images // 10)
        method = DAP(block=block, pooling=pooling, references=REFERENCES, stop=1.0)
        context = Context(
            source, build_class_map(source, prior.labels_of(source.class_names)), prior, settings, 0, 10, 32, 1
        )
        return context, method.prepare(context)

    def term(references: References, features: Mapping[tuple[int, int], torch.Tensor]) -> KernelDistanceTerm:
        return KernelDistanceTerm(references.tap, features, Linear(), Window(), 1.0, "eps", True)

    variants: dict[str, KernelDistanceTerm | None] = {"unguided": None}
    for block, pooling in (
        (third, DEFAULT_POOLING), (third, "mean"), (third, "flat"), (two_thirds, DEFAULT_POOLING),
    ):  # fmt: skip
        name = f"block {block} of {depth}, {pooling}"
        sizes = args.sizes if (block, pooling) == (third, DEFAULT_POOLING) else args.sizes[-1:]
        for images in sizes:
            context, references = prepare(block, pooling, images)
            variants[f"{name}, {images:,} images"] = term(references, references.features)
    if args.recompute:
        context, references = prepare(third, DEFAULT_POOLING, args.sizes[-1])
        name = f"block {third} of {depth}, {DEFAULT_POOLING}, features computed again at each step"
        variants[name] = term(references, Recomputed(context, references))

    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for turn in range(args.rounds + 1):
        for name in order if turn % 2 else reversed(order):
            generators = [rng.generator(turn, slot) for slot in range(SLOTS)]
            active = variants[name]
            start = time.perf_counter()
            sample(prior, labels, generators, settings=settings, terms=[active] if active else [])
            if turn:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / STEPS)

    base = statistics.median(seconds["unguided"])
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{SLOTS} slots, {STEPS} steps, {args.rounds} rounds, {threads}")
    print("| variant | s per step | ratio | lowest to highest | bytes read from references per step |")
    print("|---|---|---|---|---|")
    for name, values in seconds.items():
        ratios = [value / unguided for value, unguided in zip(values, seconds["unguided"], strict=True)]
        active = variants[name]
        read = sum(active.references[key].nbytes for key in active.references if key[0] == 0) if active else 0
        print(
            f"| {name} | {statistics.median(values):.3f} | {statistics.median(values) / base:.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {read:,} |"
        )


if __name__ == "__main__":
    main()
