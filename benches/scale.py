"""What each method takes at the shape of DiT-XL/2: floating-point operations and memory, without running anything.

    python benches/scale.py                       # the table of docs/memory.md, on torch's meta device, in seconds
    python benches/scale.py --check 1 2           # beside the memory that a process really takes on this CPU
    python benches/scale.py --check 1 --methods dap igd --sizes 256

The transformer is in bfloat16, the VAE in float32, the weights are random. A step is one of sampling, with
classifier-free guidance, in which the method guides. Operations are those of torch's counter, two for a multiplication
and an addition. With --check each method makes one unit in two steps, and the parts of a run are done by themselves. By
how much the resident memory rises meanwhile is compared with the plan. The networks have run once before: their first
calls compile kernels and read code of the libraries from disk, 20 to 60 MB that stay.
"""

from __future__ import annotations

import argparse
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
from dap.methods.common.network_memory import rehearse_features, rehearse_network
from dap.priors import Demand
from dap.priors.dit import DiTPrior
from dap.priors.memory import rehearse, without_data
from dap.run.job import Job, Request, resolve
from dap.run.memory import footprint
from dap.sampling import SamplingSettings

BATCHES = (1, 4, 16, 64)
GUIDANCE = 4.0
SURROGATE = {"width": 32, "epochs": 2, "references": 4}
METHODS: dict[str, dict[str, object]] = {
    "dit": {}, "dap": {"references": 4}, "dap_set": {"references": 4}, "dap_set:features": {"references": 4},
    "dap_networks": {"references": 4, "strength": 1.0},
    "dap_networks, latent": {"references": 4, "space": "latent", "strength": 1.0}, "mgd3": {},
    "manifold_gd": {"stop": 1.0}, "d4m": {"strength": 1.0}, "coda": {"min_cluster_size": 2},
    "plug_and_play": {"steps": 2, "refine": 0.0, "references": 4},
    "ld3m": {"steps": 2, "chain": 2, "batch": 4, "width": 32}, "igd": {"start": 0.0, "stop": 1.0, **SURROGATE},
}  # fmt: skip
PARTS = ("encode", "decode", "decode with a graph", "train the surrogate of `igd`")
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
    """A network of diffusers with small random weights, which repeat: drawing them all takes longer than a step."""
    network = shaped(kind, dtype, **config).to_empty(device="cpu")
    draws = torch.randn(2**20 - 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, values in (*network.named_parameters(), *network.named_buffers()):
            if values.dim() < 2:
                values.fill_(float(name.endswith("norm.weight") or ("norm" in name and name.endswith("weight"))))
                continue
            std, flat = 0.5 * values[0].numel() ** -0.5, values.view(-1)
            for start in range(0, len(flat), len(draws)):
                part = flat[start : start + len(draws)]
                part.copy_(std * draws[: len(part)])
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
    if name.startswith("dap_networks"):
        method = get_method("dap_networks", METHODS[name])
        shape = method.shape(given)
        net = method.random_network(given, shape, 0, 0, 0)
        total += operations(lambda: rehearse_features(net, shape))
        real = torch.empty(1, *shape, device="meta")  # the slots of a class share the batch of real images
        total += method.batch * operations(lambda: without_data(net).features(real)) // given.ipc
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
            demands = get_method(name.split(",")[0], METHODS[name]).demands(given)
            stages = [prior.step_bytes(demand, guidance_scale=GUIDANCE) for demand in demands]
            memory = " | ".join(f"{max(stage.of(batch) for stage in stages) / GB:.2f}" for batch in BATCHES)
            tera = step_operations(prior, name, demands, given) / 1e12
            fit = min(stage.fit(40 * 10**9) for stage in stages)
            print(f"| `{name}` | {tera:.2f} | {memory} | {fit:,} |", flush=True)


def check(size: int, methods: list[str], batches: list[int]) -> None:
    """Print a row for each part of a run and each method: by how much the resident memory rises, and the plan."""
    prior = DiTPrior(pipeline(size, filled), name="DiT-XL/2")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DAP_CACHE"] = str(Path(folder) / "cache")
        for label in range(max(batches)):
            (Path(folder) / "images" / f"class {label}").mkdir(parents=True)
            for number in range(4):
                pixels = np.random.default_rng((label, number)).integers(0, 256, (size, size, 3), np.uint8)
                Image.fromarray(pixels).save(Path(folder) / "images" / f"class {label}" / f"{number}.png")
        for name in (*PARTS, *methods):
            for batch in batches:
                measure = part if name in PARTS else unit
                planned, real = measure(prior, name, batch, Path(folder) / "images")
                title = name if name in PARTS else f"`{name}`"
                print(
                    f"| {title} | {size} | {batch} | {planned / GB:.3f} | {real / GB:.3f} | {real / planned:.2f} |",
                    flush=True,
                )


def part(prior: DiTPrior, name: str, count: int, images: Path) -> tuple[int, int]:
    """Return the bytes that a part of a run takes for some images, as planned and as measured."""
    image, side = prior.image_bytes, prior.image_shape[1]
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    latents = torch.randn(count, *prior.latent_shape)
    prior.decode(latents[:1, :, :8, :8]), prior.encode(pixels[:1, :, :64, :64])  # reads the libraries' code
    if name == "encode":
        return count * image.encode, risen(lambda: prior.encode(pixels))
    if name == "decode":
        return count * image.decode, risen(lambda: prior.decode(latents))
    if name == "decode with a graph":
        latents.requires_grad_()
        planned = min(count, prior.batches.decode_graph) * image.decode_graph
        return planned, risen(lambda: torch.autograd.grad(prior.decode_with_graph(latents).sum(), latents))
    job = request(prior, "igd", images, 1, classes=count)
    given = job.context()
    return job.recipe.preparation_bytes(given), risen(lambda: job.recipe.prepare(given))


def unit(prior: DiTPrior, name: str, count: int, images: Path) -> tuple[int, int]:
    """Return the bytes beside the weights that a unit with some slots takes, as planned and as measured.

    The slots are of one class, or one of each class where the slots of a class wait for each other.
    """
    sequence = name == "igd"
    job = request(prior, name, images, 1 if sequence else count, classes=count if sequence else 1)
    given, plan = job.context(), footprint(job)
    artefact = job.recipe.prepare(given)
    with torch.no_grad():  # the first call at a shape compiles kernels, which stay
        prior.denoise(torch.randn(count, *prior.latent_shape), torch.tensor(500), torch.zeros(count, dtype=torch.int64))
    slots = tuple(Slot(number, 0) if sequence else Slot(0, number) for number in range(count))
    return plan.step(count) - plan.weights, risen(lambda: job.recipe.make(given, Unit(0, slots), artefact))


def request(prior: DiTPrior, name: str, images: Path, ipc: int, classes: int = 1) -> Job:
    return resolve(Request(
        source=images, classes=[f"class {number}" for number in range(classes)], prior=prior,
        method=name.split(",")[0], method_options=METHODS[name], ipc=ipc, num_inference_steps=2,
        guidance_scale=GUIDANCE,
    ))  # fmt: skip


def resident(entry: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{entry}:")[1].split()[0]) * 1024


def risen(run: Callable[[], object]) -> int:
    """Run a function; return by how many bytes the resident memory rose meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins again from what is resident now
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--check", type=int, nargs="*", metavar="SLOTS", help="also measure with this many slots")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return check(args.sizes[0], args.methods, args.check)
    table(args.sizes, args.methods)
    if args.check:
        print(
            "\n| | pixels | images | planned GB | really GB | really / planned |\n|---|---|---|---|---|---|", flush=True
        )
        for size in args.sizes:  # in a process of its own for each size, whose allocator gives memory back
            options = ["--sizes", str(size), "--check", *map(str, args.check), "--methods", *args.methods]
            subprocess.run([sys.executable, __file__, "--child", *options], check=True, env=os.environ | RETURNED)


if __name__ == "__main__":
    main()
