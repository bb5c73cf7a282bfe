"""Trains the VAE of the embedded prior on the train split of Fashion-MNIST. Resumable; about 25 minutes on two cores.

    python examples/fashion_prior/train_vae.py --data /usr/share/datasets/fashion-mnist --run runs/fashion_prior

Loss: L1 + 1e-4 KL per pixel. At the end the per-channel mean and deviation of the latents over the train split are
folded into the quant convolutions, because DiTPipeline only divides by the scalar ``scaling_factor``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dap.data.idx import read_idx

STEPS, BATCH, PEAK_LR, KL_WEIGHT, SAVE_EVERY = 6000, 64, 2.5e-3, 1e-4, 250


def load_images(folder: Path, split: str) -> Tensor:
    """Images of a split with shape (N, 1, 32, 32), float32 in [-1, 1], the 28x28 originals padded by 2 with -1."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return torch.from_numpy(padded).unsqueeze(1).float() / 127.5 - 1


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=8, sample_size=32, scaling_factor=1.0,
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False,
    )  # fmt: skip


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, images: Tensor) -> None:
    """Rewrites the quant convolutions so that each latent channel has mean 0 and deviation 1 over ``images``."""
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(500)])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()


@torch.no_grad()
def test_l1(vae: AutoencoderKL, images: Tensor) -> float:
    errors = [(vae.decode(vae.encode(x).latent_dist.mean).sample - x).abs().mean() for x in images.split(500)]
    return float(torch.stack(errors).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--run", type=Path, default=Path("runs/fashion_prior"))
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    checkpoint = args.run / "vae.ckpt"

    torch.manual_seed(0)
    train, test = load_images(args.data, "train"), load_images(args.data, "t10k")
    vae = build_vae()
    optimiser = torch.optim.AdamW(vae.parameters(), lr=PEAK_LR, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, total_steps=STEPS, pct_start=0.1)
    step, seconds, history = 0, 0.0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        step, seconds, history = state["step"], state["seconds"], state["history"]

    start = time.monotonic() - seconds
    running = []
    while step < STEPS:
        draw = torch.Generator().manual_seed(step)
        x = train[torch.randint(len(train), (BATCH,), generator=draw)]
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draw)
            reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        l1 = (reconstruction - x).abs().mean()
        kl = posterior.kl().float().mean() / x[0].numel()
        (l1 + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        step += 1
        running.append((float(l1), float(kl)))
        if step % SAVE_EVERY == 0:
            seconds = time.monotonic() - start
            l1_mean, kl_mean = np.mean(running, axis=0).tolist()
            running.clear()
            history.append({"step": step, "seconds": round(seconds), "l1": l1_mean, "kl_per_pixel": kl_mean})
            print(json.dumps(history[-1]), flush=True)
            state = {
                "vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
                "step": step, "seconds": seconds, "history": history,
            }  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)

    vae.eval()
    fold_normalisation(vae, train)
    vae.save_pretrained(args.run / "vae")
    report = {"steps": STEPS, "seconds": round(seconds), "test_l1": test_l1(vae, test), "history": history}
    (args.run / "vae_report.json").write_text(json.dumps(report, indent=1))
    print(f"test L1 on [-1, 1]: {report['test_l1']:.4f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
