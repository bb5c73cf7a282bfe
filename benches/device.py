"""What a GPU makes of dap at the size that users have, in at most eight minutes and without any file or network.

    python benches/device.py                          # on the GPU
    python benches/device.py --tiny --device cpu      # checks the script itself, in a minute

It prints, as Markdown: the device; how far features and latents on it are from the CPU's, and those in half precision
and TF32 from float32; the time and peak memory of an unguided and a guided step at the shape of DiT-XL/2 (bfloat16) for
1 to 64 slots, beside the memory that was planned; the VAE (float32) by the batch that the rule gives; a step of Stable
Diffusion 1.5's shape at 512 pixels (float16); and an epoch of the training of evaluations at 224 pixels. The weights
are random. What does not fit the time left (``--seconds``) or the memory is left out and said.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from device_clock import Clock, shown
from evaluation_epochs import epochs
from scale import GB, pipeline, shaped

from dap.features import Tap, default_block, feature_width
from dap.kernels import Linear
from dap.methods.dap import KernelDistanceTerm
from dap.priors import Demand, Prior
from dap.priors.dit import DiTPrior
from dap.priors.pipeline import PipelinePrior
from dap.priors.unet import middle_block, unet_blocks
from dap.rng import generator
from dap.sampling import SamplingSettings, Window, sample
from dap.torch_state import own_torch_state

REFERENCES, SCALE = 64, 0.3
SLOTS = (1, 2, 4, 8, 16, 32, 64)


def drawn(device: torch.device) -> Callable[..., Any]:
    """A maker of networks with small random weights that are drawn on a device."""

    def make(kind: Any, dtype: torch.dtype, **config: Any) -> Any:
        network = shaped(kind, dtype, **config).to_empty(device=device)
        draw = torch.Generator(device).manual_seed(0)
        with torch.no_grad():
            for name, values in (*network.named_parameters(), *network.named_buffers()):
                if values.dim() < 2:
                    values.fill_(float("norm" in name and name.endswith("weight")))
                else:
                    values.normal_(std=0.5 * values[0].numel() ** -0.5, generator=draw)
        return network.eval()

    return make


class TextFree(PipelinePrior):
    """A U-Net of Stable Diffusion under random hidden states instead of a text encoder's."""

    def __init__(self, made: Any) -> None:
        blocks = unet_blocks(made.unet)
        super().__init__(made, made.unet, made.vae, blocks, size=made.unet.config.sample_size, name="SD 1.5")
        self.recommended = {"block": middle_block(blocks)}
        self.labels = {"cat": 0}
        self.condition_shape = (77, made.unet.config.cross_attention_dim)

    def _forward(self, sample: Any, timesteps: Any, labels: Any, condition: Any) -> Any:
        states = torch.zeros(len(sample), *self.condition_shape, device=sample.device, dtype=sample.dtype)
        return self.denoiser(sample, timesteps, encoder_hidden_states=states).sample


def stable_diffusion(device: torch.device, dtype: torch.dtype, tiny: bool) -> TextFree:
    from types import SimpleNamespace

    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    make = drawn(device)
    widths = (32, 32, 64, 64) if tiny else (320, 640, 1280, 1280)
    vae_widths = (32, 32, 32, 32) if tiny else (128, 256, 512, 512)
    unet = make(UNet2DConditionModel, dtype, sample_size=8 if tiny else 64, cross_attention_dim=768,
                attention_head_dim=8, block_out_channels=widths)  # fmt: skip
    vae = make(AutoencoderKL, torch.float32, down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
               up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=vae_widths, layers_per_block=2)  # fmt: skip
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_end=0.004, clip_sample=False)
    return TextFree(SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler, _execution_device=device, name_or_path=""))


def guidance(prior: Prior, steps: int) -> KernelDistanceTerm:
    """DAP's term with random references."""
    tap = Tap(default_block(prior), "sketch1024")
    width = feature_width(prior, tap, 0)
    rows = torch.randn(REFERENCES, width, generator=torch.Generator().manual_seed(1)).to(prior.device)
    references = {(step, 0): rows for step in range(steps)}
    return KernelDistanceTerm(
        tap=tap, references=references, kernel=Linear(), taps=tap.blocks, window=Window(), scale=SCALE, normalise=True
    )


def sampled(prior: Prior, slots: int, *, guided: bool, steps: int = 1, guidance_scale: float = 4.0) -> torch.Tensor:
    terms = [guidance(prior, steps)] if guided else []
    generators = [generator(0, "device", number) for number in range(slots)]
    settings = SamplingSettings(num_inference_steps=steps, guidance_scale=guidance_scale)
    return sample(prior, torch.zeros(slots, dtype=torch.int64), generators, settings=settings, terms=terms)


def parity(device: torch.device) -> None:
    """The built-in prior: two guided steps on the device against the CPU, and other precisions against float32."""
    from dap.priors import load_prior

    print("\n## Parity\n\nTwo guided steps of 8 slots of the built-in prior: largest difference of a latent.\n")
    print("| | against | largest difference | largest value |\n|---|---|---|---|")
    cpu = sampled(load_prior("fashion-dit", device="cpu"), 8, guided=True, steps=2)
    exact = sampled(load_prior("fashion-dit", device=device), 8, guided=True, steps=2)
    rows = [("float32", "the CPU", exact.cpu(), cpu)]
    with own_torch_state(tf32=True):
        rows.append(
            ("TF32", "float32", sampled(load_prior("fashion-dit", device=device), 8, guided=True, steps=2), exact)
        )
    for dtype in (torch.bfloat16, torch.float16):
        half = load_prior("fashion-dit", device=device, dtype=dtype)
        rows.append((str(dtype).removeprefix("torch."), "float32", sampled(half, 8, guided=True, steps=2), exact))
    for name, other, latents, expected in rows:
        print(f"| {name} | {other} | {(latents - expected).abs().max():.1e} | {expected.abs().max():.1f} |", flush=True)


def steps(clock: Clock, prior: PipelinePrior, title: str, slots: tuple[int, ...]) -> None:
    print(f"\n## {title}\n\nOne step with classifier-free guidance; memory beside the weights.\n")
    print(
        "| step | slots | seconds | slots a second | against 1 slot | GB | planned GB |\n|---|---|---|---|---|---|---|"
    )
    for guided in (False, True):
        demand = Demand(frozenset({default_block(prior)})) if guided else Demand()
        plan, first = prior.step_bytes(demand, guidance_scale=4.0), 0.0
        for count in slots:
            row = f"| {'guided' if guided else 'unguided'} | {count} |"
            if clock.left < 20:
                print(f"{row} no time left | | | | |", flush=True)
                break
            try:
                seconds, peak = clock.measure(lambda count=count, guided=guided: sampled(prior, count, guided=guided))
            except torch.OutOfMemoryError:
                print(f"{row} out of memory | | | | {plan.of(count) / GB:.2f} |", flush=True)
                break
            first = first or count / seconds
            print(
                f"{row} {seconds:.3f} | {count / seconds:.1f} "
                f"| {count / seconds / first:.2f} | {shown(peak)} | {plan.of(count) / GB:.2f} |", flush=True,
            )  # fmt: skip


def first_stage(clock: Clock, priors: list[PipelinePrior], most: int) -> None:
    print("\n## VAE\n\nFloat32, without and with TF32; the batch that dap's rule gives. Memory beside the weights.\n")
    print("| | pixels | images | seconds | with TF32 | images a second | GB | planned GB |")
    print("|---" * 8 + "|")
    for prior in priors:
        image, batches, (channels, side, _) = prior.image_bytes, prior.batches, prior.image_shape
        images = torch.randint(0, 256, (min(most, batches.encode), channels, side, side), dtype=torch.uint8)
        latents = torch.randn(min(most, batches.decode), *prior.latent_shape).to(prior.device)
        for name, run, count, planned in (
            ("encode", lambda prior=prior, images=images: prior.encode(images), len(images), image.encode),
            ("decode", lambda prior=prior, latents=latents: prior.decode(latents), len(latents), image.decode),
        ):
            if clock.left < 15:
                print(f"| {name} | {side} | {count} | no time left | | | | |", flush=True)
                continue
            seconds, peak = clock.measure(run)
            with own_torch_state(tf32=True):
                quick, _ = clock.measure(run)
            print(
                f"| {name} | {side} | {count} | {seconds:.3f} | {quick:.3f} | {count / quick:.1f} | {shown(peak)} "
                f"| {count * planned / GB:.2f} |", flush=True,
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=420, help="nothing new begins after them")
    parser.add_argument("--tiny", action="store_true", help="small networks, for a check of the script")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU; --tiny --device cpu checks the script without one")
    with own_torch_state(tf32=False):  # as a run without --tf32
        measured(torch.device(args.device), args.seconds, args.tiny)


def measured(device: torch.device, seconds: float, tiny: bool) -> None:
    """Print everything that is measured on a device."""
    clock = Clock(device, seconds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"# {name}, torch {torch.__version__}{', tiny networks' if tiny else ''}")
    parity(device)
    make, slots = drawn(device), (1, 2) if tiny else SLOTS
    xl = DiTPrior(pipeline(64 if tiny else 256, make, tiny=tiny), name="DiT-XL/2")
    steps(clock, xl, f"DiT-XL/2 at {xl.image_shape[1]} pixels, bfloat16", slots)
    text = stable_diffusion(device, torch.float32 if tiny else torch.float16, tiny)
    steps(clock, text, f"Stable Diffusion 1.5 at {text.image_shape[1]} pixels, {str(text.dtype)[6:]}", slots[:5])
    first_stage(clock, [xl, text], 2 if tiny else 64)
    epochs(clock, 32 if tiny else 224, 8 if tiny else 100)
    print(f"\n{seconds - clock.left:.0f} seconds")


if __name__ == "__main__":
    main()
