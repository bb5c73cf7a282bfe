"""Makes a set with every method that works with a class-conditional prior, and draws them in one picture. Resumable.

    python examples/methods_sheet.py cifar10-train.parquet --prior cifar-prior \
        --out runs/sheet --plot docs/cifar10_methods.png

A row of the picture shows the first two images of each class by one method, under the names of the classes; the title
says how many images a class the sets have, their seed and the prior. A table follows: seconds of the run with its
preparation, of which later rows find parts in the cache. Constants that were published for latents of 32 x 32 are
replaced by those that were tuned on the built-in prior (presets "fashion").
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np

import dap

matplotlib.use("Agg")
from matplotlib import pyplot

METHODS = (
    "random", "herding", "k_center", "k_medoids", "dit", "dap", "dap_set", "dap_set:features", "dap_set:medoids",
    "mgd3:fashion", "guided:set_mode", "manifold_gd:fashion", "d4m", "coda:fashion", "plug_and_play:fashion",
    "igd:fashion", "ld3m:fashion",
)  # fmt: skip
SHOWN = 2  # images of each class


def made(args: argparse.Namespace, method: str) -> tuple[dap.DistilledDataset, float]:
    """Make a method's set, or open it, and return the seconds that the first run took with its preparation."""
    folder = args.out / method.replace(":", "-")
    start = time.monotonic()
    distilled = dap.distill(args.source, prior=args.prior, method=method, ipc=args.ipc, seed=args.seed, out=folder)
    seconds = args.out / f"{folder.name}.seconds"
    if not seconds.exists():
        seconds.write_text(str(time.monotonic() - start))
    return distilled, float(seconds.read_text())


def tiles(distilled: dap.DistilledDataset) -> np.ndarray:
    """Return the first images of each class side by side, uint8 (H, W, C)."""
    images, labels = distilled.to_torch()
    shown = [image for label in labels.unique() for image in images[labels == label][:SHOWN]]
    return np.concatenate([image.permute(1, 2, 0).numpy() for image in shown], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--prior", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--plot", type=Path, required=True, help="the picture")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(len(args.methods), 1, figsize=(10, 0.55 * len(args.methods)), squeeze=False)
    print("| method | seconds |\n|---|---|")
    figure.suptitle(
        f"{SHOWN} of {args.ipc} images of each class by each method, seed {args.seed}, prior {Path(args.prior).name}",
        fontsize=9,
    )
    for axis, method in zip(axes[:, 0], args.methods, strict=True):
        distilled, seconds = made(args, method)
        picture = tiles(distilled)
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
        if axis is axes[0, 0]:
            width = picture.shape[1] / len(distilled.class_names)
            for number, name in enumerate(distilled.class_names):
                axis.text((number + 0.5) * width, -3, name, fontsize=7, ha="center", va="bottom")
        axis.text(-3, picture.shape[0] / 2, method, fontsize=7, ha="right", va="center")
        axis.axis("off")
        print(f"| `{method}` | {seconds:.0f} |", flush=True)
    figure.tight_layout(pad=0.3)
    figure.savefig(args.plot, dpi=110, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
