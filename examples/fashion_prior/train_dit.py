"""Trains the DiT of the embedded prior on latents of Fashion-MNIST's train split. Resumable; train_vae.py comes first.

    python examples/fashion_prior/train_dit.py --data /usr/share/datasets/fashion-mnist --run runs/fashion_prior

Epsilon-prediction, squared-cosine schedule, an exponential moving average of the weights. Labels are nulled for a whole
image (one draw for all blocks): the model stays in eval mode, since diffusers' LabelEmbedding would otherwise drop
them in each block by itself. Writes a DiTPipeline folder with float16 weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from train_vae import load_images

from dap.data.idx import read_idx

BATCH, PEAK_LR, WARM_UP, EMA, NULL_LABEL, NULL_SHARE, SAVE_EVERY = 128, 1e-3, 200, 0.999, 1000, 0.1, 500
CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def build_dit(channels: int) -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=3, attention_head_dim=64, num_layers=6, patch_size=2, sample_size=8,
        in_channels=channels, out_channels=channels, num_embeds_ada_norm=1000,
    )  # fmt: skip


def build_scheduler() -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", timestep_spacing="leading", variance_type="fixed_small",
        clip_sample=True, clip_sample_range=4.0,
    )  # fmt: skip


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, flat, then linear decay over the second half; as a share of the peak."""
    return min(1.0, (step + 1) / WARM_UP, 2 * (steps - step) / steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--run", type=Path, default=Path("runs/fashion_prior"))
    parser.add_argument("--steps", type=int, default=10_000)
    args = parser.parse_args()
    checkpoint = args.run / "dit.ckpt"

    vae = AutoencoderKL.from_pretrained(args.run / "vae").eval()
    with torch.no_grad():
        images = load_images(args.data, "train")
        latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(500)])
    labels = torch.from_numpy(read_idx(args.data / "train-labels-idx1-ubyte.gz").astype(np.int64))
    print(f"latents: mean {latents.mean():.3f}, std {latents.std():.3f}, max {latents.abs().max():.1f}", flush=True)

    torch.manual_seed(0)
    dit = build_dit(latents.shape[1]).eval()
    average = copy.deepcopy(dit).requires_grad_(False)
    scheduler = build_scheduler()
    optimiser = torch.optim.AdamW(dit.parameters(), lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=0.0)
    step, seconds, history = 0, 0.0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        dit.load_state_dict(state["dit"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, seconds, history = state["step"], state["seconds"], state["history"]

    start = time.monotonic() - seconds
    running = []
    while step < args.steps:
        draw = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(latents), (BATCH,), generator=draw)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=draw)
        timesteps = torch.randint(0, 1000, (BATCH,), generator=draw)
        nulled = torch.rand(BATCH, generator=draw) < NULL_SHARE
        condition = torch.where(nulled, NULL_LABEL, labels[chosen])
        with torch.autocast("cpu", torch.bfloat16):
            noisy = scheduler.add_noise(latents[chosen], noise, timesteps)
            prediction = dit(noisy, timestep=timesteps, class_labels=condition).sample
        loss = torch.nn.functional.mse_loss(prediction.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(dit.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = PEAK_LR * learning_rate(step, args.steps)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        decay = min(EMA, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(dit.parameters()), 1 - decay)
        running.append(loss.item())
        if step % SAVE_EVERY == 0:
            seconds = time.monotonic() - start
            history.append({"step": step, "seconds": round(seconds), "loss": float(np.mean(running))})
            running.clear()
            print(json.dumps(history[-1]), flush=True)
            state = {
                "dit": dit.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(),
                "step": step, "seconds": seconds, "history": history,
            }  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)

    pipeline = DiTPipeline(average, vae, scheduler)
    pipeline.register_to_config(id2label={str(label): name for label, name in enumerate(CLASS_NAMES)})
    pipeline.to(torch.float16).save_pretrained(args.run / "fashion_dit")
    report = {"steps": args.steps, "seconds": round(seconds), "history": history}
    (args.run / "dit_report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
