"""The part of benches/device.py on evaluations: an epoch of protocol ``hard`` at 224 pixels."""

from __future__ import annotations

import numpy as np
import torch
from device_clock import Clock, shown

from dap import rng
from dap.evaluation import Recipe, named_protocol, run_protocol
from dap.evaluation.augment import apply, cutmix, draw
from dap.evaluation.recipe import Case
from dap.torch_state import own_torch_state

CLASSES = 10


def epochs(clock: Clock, size: int, count: int) -> None:
    """Print seconds of an epoch of ``count`` random images, and the share that augmentation and mixing take of it."""
    print(f"\n## Evaluation\n\nAn epoch of {count} images of {size} pixels by protocol `hard`, with one test on two.\n")
    print("| network | precision | seconds | of which augmentation | images a second | GB |\n" + "|---" * 6 + "|")
    images = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), np.uint8)
    labels = np.arange(count) % CLASSES
    for network in ("convnet6" if size >= 64 else "convnet3", "resnet18"):
        for precision, tf32 in (("float32", False), ("TF32", True), ("bfloat16", False)):
            row = f"| {network} | {precision} |"
            if clock.left < 30:
                print(f"{row} no time left | | | |", flush=True)
                continue
            options = {"size": size, "epochs": 1, "precision": "bfloat16" if precision == "bfloat16" else "float32"}

            def train(network: str = network, options: dict[str, object] = options) -> None:
                run_protocol(images, labels, images[:2], labels[:2], classes=CLASSES, protocol="hard", network=network,
                             protocol_options=options, device=clock.device)  # fmt: skip

            recipe = Recipe(**named_protocol("hard", options).constants(Case(network, count // CLASSES, CLASSES, size)))
            pixels = torch.tensor(images, device=clock.device)
            try:
                loading, _ = clock.measure(lambda recipe=recipe, pixels=pixels: load(pixels, recipe))
                with own_torch_state(tf32=tf32):
                    seconds, peak = clock.measure(train)
            except torch.OutOfMemoryError:
                print(f"{row} out of memory | | | |", flush=True)
                continue
            print(f"{row} {seconds:.3f} | {100 * loading / seconds:.0f} % | {count / seconds:.0f} | {shown(peak)} |",
                  flush=True)  # fmt: skip


def load(images: torch.Tensor, recipe: Recipe) -> None:
    """Augment and mix all images once."""
    generator = rng.generator(0)
    for rows in torch.randperm(len(images), generator=generator).split(recipe.batch_size):
        cutmix(apply(images, draw(recipe, len(rows), images.shape[2], generator), recipe, rows=rows), generator)
