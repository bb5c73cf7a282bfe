"""torch.compile and channels-last beside networks as they are: time of a call, and how far results differ.

    python benches/compiled.py                        # on a CPU, with one thread
    python benches/compiled.py --device cuda          # with CUDA graphs (torch.compile's mode reduce-overhead)

The networks are the built-in prior's denoiser with 100 slots, four blocks of the shape of DiT-XL/2 with one slot, and
the decoder of Stable Diffusion's VAE at 128 pixels. Contenders take turns in one process after a call to warm up. Times
on a CPU are those of the processor.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from scale import filled

from dap.priors import load_prior

ROUNDS = 3


def cases(device: str) -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    prior = load_prior("fashion-dit", device=device)
    draw = torch.Generator().manual_seed(0)

    def inputs(count: int, channels: int, side: int) -> dict[str, Any]:
        return {"hidden_states": torch.randn(count, channels, side, side, generator=draw).to(device),
                "timestep": torch.full((count,), 500, device=device),
                "class_labels": torch.zeros(count, dtype=torch.int64, device=device)}  # fmt: skip

    xl = filled(
        DiTTransformer2DModel, torch.float32, num_layers=4, num_attention_heads=16, attention_head_dim=72, patch_size=2,
        sample_size=32, in_channels=4, out_channels=8, num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
        activation_fn="gelu-approximate", attention_bias=True, norm_elementwise_affine=False, norm_eps=1e-5,
    ).to(device)  # fmt: skip
    vae = filled(
        AutoencoderKL, torch.float32, down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        norm_num_groups=32,
    ).to(device)  # fmt: skip
    channels, side, _ = prior.latent_shape
    return {
        "fashion-dit, 100 slots": (prior.denoiser, (), inputs(100, channels, side)),
        "four blocks of DiT-XL/2": (xl, (), inputs(1, 4, 32)),
        "decoder, 128 pixels": (vae.decoder, (torch.randn(1, 4, 16, 16, generator=draw).to(device),), {}),
    }


def seconds(call: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    begin = clock()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - begin


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print("| network | form | first call, s | later calls, s | against plain | largest difference | largest value |")
    print("|---" * 7 + "|", flush=True)
    modes = {"compiled": "default"} | ({"CUDA graphs": "reduce-overhead"} if args.device != "cpu" else {})
    for title, (module, given, named) in cases(args.device).items():
        contenders: dict[str, Callable[[], Any]] = {"plain": lambda m=module, g=given, n=named: m(*g, **n)}
        for name, mode in modes.items():
            made = torch.compile(module, mode=mode)
            contenders[name] = lambda m=made, g=given, n=named: m(*g, **n)
        if any(isinstance(part, torch.nn.Conv2d) for part in module.modules()):
            last = copy.deepcopy(module).to(memory_format=torch.channels_last)
            contenders["channels last"] = lambda m=last, g=given, n=named: m(*g, **n)
        first = {name: seconds(call, args.device) for name, call in contenders.items()}
        later: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, call in contenders.items():
                later[name].append(seconds(call, args.device))
        plain = tensor(contenders["plain"]())
        for name in contenders:
            best, against = min(later[name]), min(later[name]) / min(later["plain"])
            differs = (tensor(contenders[name]()) - plain).abs().max().item()
            print(f"| {title} | {name} | {first[name]:.1f} | {best:.2f} | {against:.2f} | {differs:.1e} "
                  f"| {plain.abs().max().item():.1f} |", flush=True)  # fmt: skip


def tensor(result: Any) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else result.sample


if __name__ == "__main__":
    main()
