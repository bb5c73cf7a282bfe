"""How well a few references stand for many: the error of the guidance energy's gradient by selection rule. Resumable.

    python examples/reference_study.py --out runs/references --plot docs/references.png

Fixed before it was run: classes Dress, Shirt and Sneaker with seeds 0, 1 and 2 (one class a seed); timesteps 100, 500
and 900; 4,096 training images of the class as all references; 64 further ones, noised to the same step, in place of
slots; 16, 64 and 256 references by each rule; the energies E(φ) = Σ_n w_n D_k(φ, φ_n) of the kernels linear, rbf,
laplacian, exponential (bandwidth: the median over all references) and distance. Features: the built-in prior's at its
tap, mean over tokens.

The error is ‖∇E_few − ∇E_all‖ / ‖∇E_all‖ over the 64 slots together, with ∇ taken with respect to φ. The cells are
means over steps and seeds. Needs Fashion-MNIST (Debian's dataset-fashion-mnist). One JSON line per measurement goes to
OUT/errors.jsonl; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dap import kernels as K
from dap import selection
from dap.data.open import open_source
from dap.features import Tap, default_block, encode_images, noised_features
from dap.kernels.torch_pairs import TorchPairs, root
from dap.priors import Prior, load_prior

CLASSES = ("Dress", "Shirt", "Sneaker")
TIMESTEPS = (100, 500, 900)
COUNTS = (16, 64, 256)
ALL, SLOTS = 4096, 64
KERNELS: tuple[K.Kernel, ...] = (K.Linear(), K.RBF(), K.Laplacian(), K.Exponential(), K.Distance())
RULES: dict[str, Callable[[np.ndarray, int, int], selection.Selection]] = {
    "random": lambda x, n, seed: selection.random(x, n, seed=seed),
    "herding": lambda x, n, seed: selection.herding(x, n, seed=seed),
    "herding, weighted": lambda x, n, seed: selection.herding(x, n, seed=seed, weighted=True),
    "herding by rbf": lambda x, n, seed: selection.herding(x, n, kernel=K.RBF(), seed=seed),
    "thinning": lambda x, n, seed: selection.thinning(x, n, seed=seed),
    "k-medoids": lambda x, n, seed: selection.k_medoids(x, n, seed=seed),
    "k-means centroids": lambda x, n, seed: selection.k_means_centroids(x, n, seed=seed),
    "k-centre": lambda x, n, seed: selection.k_center(x, n, seed=seed),
    "facility location": lambda x, n, seed: selection.facility_location(x, n, seed=seed),
}


def features_of(prior: Prior, name: str, timestep: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """φ of the references and of the images in place of slots, float32 (count, D)."""
    source = open_source("fashion-mnist")
    chosen = source.of_class(list(source.class_names).index(name))[: ALL + SLOTS]
    latents = encode_images(prior, torch.from_numpy(source.images(chosen, size=32, channels=1)))
    features = noised_features(
        prior, latents, [source.ids[i] for i in chosen], label=prior.labels[name], tap=Tap(default_block(prior)),
        scheduler=prior.scheduler("ddpm", 1000), timestep=timestep, seed=seed,
    ).numpy()  # fmt: skip
    return features[:ALL], features[ALL:]


def gradient(slots: np.ndarray, references: np.ndarray, weights: np.ndarray | None, kernel: K.Kernel) -> torch.Tensor:
    """∇_φ Σ_n w_n D_k(φ, φ_n) of each slot, float64."""
    x, y = torch.from_numpy(slots).double().requires_grad_(), torch.from_numpy(references).double()
    shares = torch.full((len(y),), 1 / len(y)).double() if weights is None else torch.from_numpy(weights)
    (root(kernel.squared_distance(TorchPairs(x, y))) @ shares).sum().backward()
    assert x.grad is not None
    return x.grad


def measure(path: Path) -> list[dict[str, object]]:
    """One row for each seed, step, kernel, rule and count."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["seed"], row["timestep"]) for row in rows}
    prior = load_prior("fashion-dit")
    for seed, name in enumerate(CLASSES):
        for timestep in TIMESTEPS:
            if (seed, timestep) in done:
                continue
            references, slots = features_of(prior, name, timestep, seed)
            kernels = [kernel.resolve(references) for kernel in KERNELS]
            exact = [gradient(slots, references, None, kernel) for kernel in kernels]
            new = []
            for rule, select in RULES.items():
                for count in COUNTS:
                    chosen = select(references, count, seed)
                    points = references[chosen.indices] if chosen.points is None else chosen.points
                    for kernel, whole in zip(kernels, exact, strict=True):
                        few = gradient(slots, points, chosen.weights, kernel)
                        error = float((few - whole).norm() / whole.norm())
                        new.append(
                            {"seed": seed, "class": name, "timestep": timestep, "rule": rule, "count": count}
                            | {"kernel": kernel.name, "error": error, "mmd": chosen.error}
                        )
            with path.open("a") as file:  # a step's rows at once, so that a stopped one is done again as a whole
                file.write("".join(f"{json.dumps(row)}\n" for row in new))
            rows += new
            print(f"{name}, t = {timestep}: {len(new)} measurements", flush=True)
    return rows


def mean_errors(rows: list[dict[str, object]]) -> dict[tuple[object, ...], float]:
    """The mean over steps and seeds, by count, rule and kernel."""
    errors: dict[tuple[object, ...], list[object]] = {}
    for row in rows:
        errors.setdefault((row["count"], row["rule"], row["kernel"]), []).append(row["error"])
    return {key: float(np.mean(values)) for key, values in errors.items()}


def table(rows: list[dict[str, object]]) -> str:
    """Mean error by count and rule (rows) and kernel (columns); the least of each column in bold."""
    means = mean_errors(rows)
    names = [kernel.name for kernel in KERNELS]
    lines = [f"| references | rule | {' | '.join(names)} |", f"|---|---{'|---' * len(names)}|"]
    for count in COUNTS:
        least = {name: min(means[count, rule, name] for rule in RULES) for name in names}
        for rule in RULES:
            values = {name: means[count, rule, name] for name in names}
            cells = [f"**{value:.3f}**" if value == least[name] else f"{value:.3f}" for name, value in values.items()]
            lines.append(f"| {count} | {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Error over the number of references, a line for each rule and a panel for each kernel."""
    import matplotlib.pyplot as plt

    means = mean_errors(rows)
    figure, axes = plt.subplots(1, len(KERNELS), figsize=(15, 3.8), sharey=True)
    for axis, kernel in zip(axes, KERNELS, strict=True):
        for rule in RULES:
            errors = [means[count, rule, kernel.name] for count in COUNTS]
            axis.plot(COUNTS, errors, marker="o", markersize=3, label=rule)
        axis.set(title=kernel.name, xscale="log", yscale="log", xlabel="references of 4,096")
        axis.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axis.minorticks_off()
    axes[0].set_ylabel("relative error of the gradient")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = measure(args.out / "errors.jsonl")
    print(table(rows))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
