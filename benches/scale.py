"""What each method takes at the shape of DiT-XL/2: floating-point operations and memory, without running anything.

    python benches/scale.py                       # the table of docs/scale.md, on torch's meta device, in seconds
    python benches/scale.py --check 1 2           # beside the memory that a process really takes on this CPU
    python benches/scale.py --check 1 --methods dap igd --sizes 256

The transformer is in bfloat16, the VAE in float32, the weights are random. A step is one of sampling, with
classifier-free guidance, in which the method guides. Operations are those of torch's counter, two for a multiplication
and an addition. With --check each method makes one unit in a process of its own, in two steps; what is
compared is by how much its resident memory rose above what it held before the unit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from dap.methods import Context, Slot, Unit, get_method
from dap.methods.common.network_memory import rehearse_network
from dap.priors import Demand
from dap.priors.dit import DiTPrior
from dap.priors.memory import rehearse
from dap.run.job import Request, resolve
from dap.run.memory import footprint
from dap.sampling import SamplingSettings

BATCHES = (1, 4, 16, 64)
GUIDANCE = 4.0
SURROGATE = {"width": 32, "epochs": 2, "references": 4}
METHODS: dict[str, dict[str, object]] = {
    "dit": {}, "dap": {"references": 4}, "dap_set": {"references": 4}, "dap_set:features": {"references": 4},
    "mgd3": {},
    "manifold_gd": {"stop": 1.0}, "d4m": {"strength": 1.0}, "coda": {"min_cluster_size": 2},
    "plug_and_play": {"steps": 2, "refine": 0.0, "references": 4},
    "ld3m": {"steps": 2, "chain": 2, "batch": 4, "width": 32}, "igd": {"start": 0.0, "stop": 1.0, **SURROGATE},
}  # fmt: skip
GB = 1e9
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Makes glibc give freed memory back, which it else keeps: the resident memory is then what is used."""


def pipeline(size: int, make: Callable[..., Any], *, tiny: bool = False) -> Any:
    """DiT-XL/2 for images of some size, in bfloat16, and a VAE like Stable Diffusion's in float32."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = make(
        DiTTransformer2DModel, torch.bfloat16, num_layers=3 if tiny else 28, num_attention_heads=2 if tiny else 16,
        attention_head_dim=8 if tiny else 72, patch_size=2, sample_size=size // 8, in_channels=4, out_channels=8,
        num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
        activation_fn="gelu-approximate", attention_bias=True, norm_elementwise_affine=False, norm_eps=1e-5,
    )  # fmt: skip
    vae = make(
        AutoencoderKL, torch.float32, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(32, 32, 32, 32) if tiny else (128, 256, 512, 512),
        layers_per_block=2, latent_channels=4, norm_num_groups=32, sample_size=size, scaling_factor=0.18215,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False, beta_start=1e-4, beta_end=0.004)
    return DiTPipeline(transformer, vae, scheduler, id2label={label: f"class {label}" for label in range(1000)})


def shaped(kind: Any, dtype: torch.dtype, **config: Any) -> Any:
    """A network of diffusers on the meta device."""
    with torch.device("meta"):
        return torch.nn.Module.to(kind(**config), dtype)  # diffusers' own logs a warning


def filled(kind: Any, dtype: torch.dtype, **config: Any) -> Any:
    """A network of diffusers with small random weights."""
    network, generator = shaped(kind, dtype, **config).to_empty(device="cpu"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, values in (*network.named_parameters(), *network.named_buffers()):
            if values.dim() < 2:
                values.fill_(float(name.endswith("norm.weight") or ("norm" in name and name.endswith("weight"))))
            else:
                values.normal_(std=0.5 * values[0].numel() ** -0.5, generator=generator)
    return network.eval()


def context(prior: DiTPrior, classes: int = 10) -> Context:
    """A run's context for the methods' demands, which read shapes alone."""
    settings = SamplingSettings(num_inference_steps=50, guidance_scale=GUIDANCE)
    channels, size, _ = prior.image_shape
    return Context(None, (None,) * classes, prior, settings, 0, 10, size, channels)  # type: ignore[arg-type]


def operations(compute: Callable[[], object]) -> int:
    """Floating-point operations of a function."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return int(counter.get_total_flops())


def step_operations(prior: DiTPrior, name: str, demands: tuple[Demand, ...], given: Context) -> int:
    """Operations of a guided step for one slot."""
    meta = prior.without_data()
    total = 0
    for demand in demands:
        if demand.denoiser or demand.taps or not demand.decoder:
            total += operations(lambda demand=demand: rehearse(meta, demand, GUIDANCE, 1))
        if demand.decoder:
            latents = torch.empty(1, *prior.latent_shape, device="meta", requires_grad=True)
            total += operations(lambda x=latents: torch.autograd.grad(meta.decode_with_graph(x).sum(), x))
    if name == "igd":
        method = get_method("igd", SURROGATE)
        total += method.checkpoints * operations(
            lambda: rehearse_network(given, method.network, method.width, second=True)
        )
    return total


def table(sizes: list[int], methods: list[str]) -> None:
    for size in sizes:
        prior = DiTPrior(pipeline(size, shaped), name="DiT-XL/2")
        given, image, batches = context(prior), prior.image_bytes, prior.batches
        print(
            f"\n{size} pixels: weights {prior.weight_bytes / GB:.2f} GB; {batches.encode} images are encoded at once "
            f"({batches.encode * image.encode / GB:.1f} GB), {batches.decode} decoded "
            f"({batches.decode * image.decode / GB:.1f} GB), {batches.decode_graph} decoded with a graph "
            f"({batches.decode_graph * image.decode_graph / GB:.1f} GB)\n"
        )
        columns = " | ".join(f"GB at {batch}" for batch in BATCHES)
        print(f"| method | TFLOP a slot and step | {columns} | slots in half of 80 GB |")
        print("|---" * (3 + len(BATCHES)) + "|")
        for name in methods:
            demands = get_method(name, METHODS[name]).demands(given)
            stages = [prior.step_bytes(demand, guidance_scale=GUIDANCE) for demand in demands]
            memory = " | ".join(f"{max(stage.of(batch) for stage in stages) / GB:.2f}" for batch in BATCHES)
            tera = step_operations(prior, name, demands, given) / 1e12
            fit = min(stage.fit(40 * 10**9) for stage in stages)
            print(f"| `{name}` | {tera:.2f} | {memory} | {fit:,} |", flush=True)


def check(sizes: list[int], methods: list[str], batches: list[int]) -> None:
    print("\n| method | pixels | slots | planned GB | really GB | really / planned |\n|---|---|---|---|---|---|")
    for size in sizes:
        for name in methods:
            for batch in batches:
                command = [sys.executable, __file__, "--child", name, "--sizes", str(size), "--check", str(batch)]
                done = subprocess.run(command, capture_output=True, text=True, env=os.environ | RETURNED)
                row = f"| `{name}` | {size} | {batch} |"
                if done.returncode:
                    print(f"{row} failed: {done.stderr.strip().splitlines()[-1]} |", flush=True)
                    continue
                plan, real = json.loads(done.stdout.splitlines()[-1])
                print(f"{row} {plan / GB:.2f} | {real / GB:.2f} | {real / plan:.2f} |", flush=True)


def resident(entry: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{entry}:")[1].split()[0]) * 1024


def child(name: str, size: int, batch: int) -> None:
    """Make one unit with as many slots, one of each class where slots of a class wait for each other."""
    os.environ["DAP_CACHE"] = tempfile.mkdtemp()
    sequence = name == "igd"
    with tempfile.TemporaryDirectory() as folder:
        for label in range(batch if sequence else 1):
            (Path(folder) / f"class {label}").mkdir()
            for number in range(4):
                pixels = np.random.default_rng((label, number)).integers(0, 256, (size, size, 3), np.uint8)
                Image.fromarray(pixels).save(Path(folder) / f"class {label}" / f"{number}.png")
        job = resolve(Request(
            source=folder, prior=DiTPrior(pipeline(size, filled), name="DiT-XL/2"), method=name,
            method_options=METHODS[name], ipc=1 if sequence else batch, num_inference_steps=2, guidance_scale=GUIDANCE,
        ))  # fmt: skip
        given = job.context()
        artefact = job.recipe.prepare(given)
        slots = [Slot(label, 0) for label in range(batch)] if sequence else [Slot(0, n) for n in range(batch)]
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins again from what is resident now
        before = resident("VmRSS")
        made = job.recipe.make(given, Unit(0, tuple(slots)), artefact)
        real = resident("VmHWM") - before
        assert torch.isfinite(made).all()
        plan = footprint(job)
        print(json.dumps([plan.step(batch) - plan.weights, real]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--check", type=int, nargs="*", metavar="SLOTS", help="also measure with this many slots")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.sizes[0], args.check[0])
        return
    table(args.sizes, args.methods)
    if args.check:
        check(args.sizes, args.methods, args.check)


if __name__ == "__main__":
    main()
