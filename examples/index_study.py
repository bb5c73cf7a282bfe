"""What an index may leave out: the guidance gradient with fewer numbers and references, beside the whole. Resumable.

    python examples/index_study.py --out runs/index_study
    python examples/index_study.py --out runs/index_study_xl --prior facebook/DiT-XL-2-256 --source imagenet/train

For each class, timestep and seed: 8 real images that are no references, noised to the timestep, are the slots x_t; all
other images of the class, at most 1,000, are the whole reference set. The gradient of the energy (linear kernel) of
each slot, with features pooled and stored as float16, and with 16, 64 or all references, is compared by its cosine with
the gradient of all references, flat and float32. One JSON line per (class, timestep, seed, pooling, references) goes to
OUT/cosines.jsonl; what is there is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.features import Tap, choose_timesteps, default_block, encode_images, noised_features, schedule
from dap.features.references import image_noise
from dap.kernels import Linear
from dap.methods.dap import KernelDistanceTerm
from dap.priors import Prior, load_prior
from dap.sampling import SamplingSettings, StepState, Window
from dap.selection import permutation

SLOTS, WHOLE = 8, 1000
POOLINGS = ("mean", "grid2", "grid4", "sketch64", "sketch256", "sketch1024", "flat")
REFERENCES = (16, 64, WHOLE)
IMAGENET = 1_281_167


def gradients(prior: Prior, x: Tensor, t: int, label: int, tap: Tap, features: Tensor) -> Tensor:
    """∇E of each slot, (B, C·h·w)."""
    labels = torch.full((len(x),), label, device=prior.device)
    x = x.to(prior.device).requires_grad_()
    prediction = prior.denoise(x, torch.tensor(t, device=prior.device), labels, taps=[tap.block])
    state = StepState(0, 1, t, 1.0, 0.0, 0.0, x, prediction.eps, x, labels, prediction.features)
    term = KernelDistanceTerm(tap, {(0, label): features}, Linear(), Window(), 1.0, "eps", False)
    (found,) = torch.autograd.grad(term.energy(state).sum(), x)
    return found.flatten(1).cpu()


def cell(prior: Prior, scheduler: Any, source: Any, label: int, prior_label: int, t: int, seed: int) -> list[dict]:
    """The rows of one class, timestep and seed."""
    name, members = source.class_names[label], source.of_class(label)
    chosen = members[permutation(len(members), seed, name)][: SLOTS + WHOLE]
    channels, size, _ = prior.image_shape
    latents = encode_images(prior, torch.from_numpy(source.images(chosen, size=size, channels=channels)))
    ids = [source.ids[i] for i in chosen]
    noise = torch.stack([image_noise(prior.latent_shape, seed, f"slot {each}", t) for each in ids[:SLOTS]])
    x = scheduler.scale_model_input(scheduler.add_noise(latents[:SLOTS], noise, torch.full((SLOTS,), t)), t)

    def features(tap: Tap) -> Tensor:
        return noised_features(
            prior, latents[SLOTS:], ids[SLOTS:], label=prior_label, tap=tap, scheduler=scheduler, timestep=t, seed=seed
        )

    block, rows = default_block(prior), []
    whole = gradients(prior, x, t, prior_label, Tap(block, "flat"), features(Tap(block, "flat")))
    for pooling in POOLINGS:
        tap = Tap(block, pooling)
        stored = features(tap).half().float()
        for count in REFERENCES:
            ours = gradients(prior, x, t, prior_label, tap, stored[:count])
            rows.append({
                "class": name, "timestep": t, "seed": seed, "pooling": pooling, "numbers": stored.shape[1],
                "references": count, "cosines": torch.cosine_similarity(ours, whole).tolist(),
            })  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        "| pooling | numbers | ImageNet-1K, 8 steps, GB | " + " | ".join(f"N = {n}" for n in REFERENCES) + " |",
        "|---|---|---|" + "---|" * len(REFERENCES),
    ]
    for pooling in POOLINGS:
        own = [row for row in rows if row["pooling"] == pooling]
        cells = []
        for count in REFERENCES:
            cosines = np.concatenate([row["cosines"] for row in own if row["references"] == count])
            cells.append(f"{cosines.mean():.3f} ({cosines.min():.3f})")
        numbers = own[0]["numbers"]
        lines.append(f"| {pooling} | {numbers:,} | {IMAGENET * 8 * 2 * numbers / 1e9:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prior", default="fashion-dit")
    parser.add_argument("--source", default="fashion-mini")
    parser.add_argument("--classes", type=int, default=10, help="the first so many")
    parser.add_argument("--timesteps", type=int, default=4, help="evenly spaced in the schedule")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "cosines.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    log.write_text("".join(line for line in lines if line.endswith("\n")))  # without a line that a kill cut short
    done = {(row["class"], row["timestep"], row["seed"], row["pooling"], row["references"]) for row in rows}
    prior, source = load_prior(args.prior), open_source(args.source)
    settings = SamplingSettings.choose(prior.recommended)
    scheduler = prior.scheduler(settings.scheduler, settings.num_inference_steps)
    entries = build_class_map(source, prior.labels)[: args.classes]
    times = choose_timesteps(schedule(scheduler), args.timesteps)
    for seed, (label, entry), t in itertools.product(range(args.seeds), enumerate(entries), times):
        if all((entry.name, t, seed, *each) in done for each in itertools.product(POOLINGS, REFERENCES)):
            continue
        new = cell(prior, scheduler, source, label, int(entry.prior_label or 0), t, rng.derive_seed("study", seed))
        new = [row | {"seed": seed} for row in new]
        new = [row for row in new if (row["class"], t, seed, row["pooling"], row["references"]) not in done]
        with log.open("a") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in new)
        rows += new
        print(f"seed {seed}, {entry.name}, t = {t}: {len(rows)} rows", flush=True)
    print("cosine with the whole gradient: mean (lowest)")
    print(table(rows))


if __name__ == "__main__":
    main()
