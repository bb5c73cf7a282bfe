"""The one-sided pull beside the set energy: one class, the same seeds, the scale growing. Makes docs/guidance_sets.png.

    python examples/guidance_picture.py --class-name Bag --plot docs/guidance_sets.png

Rows: unguided; DAP's energy in the prior's features at two scales; the set energy in the same features, with the same
references, at scales with which each slot is moved as far; dap_set at its defaults.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

import dap
from dap.methods import DAP, DAPSet, DiT

matplotlib.use("Agg")
from matplotlib import pyplot

ROWS = {
    "unguided": DiT(),
    "dap, scale 100": DAP(scale=100.0),
    "dap, scale 1,000": DAP(scale=1000.0),
    "dap_set:features, scale 100": DAPSet(space="features", scale=100.0, references=64),
    "dap_set:features, scale 1,000": DAPSet(space="features", scale=1000.0, references=64),
    "dap_set, defaults (in latents)": DAPSet(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--class-name", default="Bag")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, required=True)
    args = parser.parse_args()
    figure, axes = pyplot.subplots(len(ROWS), 1, figsize=(9, 1.05 * len(ROWS)))
    for axis, (name, method) in zip(axes, ROWS.items(), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            made = dap.distill(
                "fashion-mini",
                method=method,
                classes=[args.class_name],
                ipc=10,
                seed=args.seed,
                out=Path(folder) / "set",
            )
            images = made.to_torch()[0].numpy()[:, 0].astype(float)
        apart = np.mean([np.abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]])
        axis.imshow(np.concatenate(list(images), axis=1), cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{name}: mean difference between two images {apart:.0f} of 255", fontsize=8, loc="left", pad=2)
        axis.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(args.plot, dpi=100)


if __name__ == "__main__":
    main()
