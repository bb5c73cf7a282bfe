"""What ImageNet-1K costs by prior, method and images per class: operations, counted on torch's meta device.

    python benches/imagenet_cost.py               # the table of docs/scale.md, in half a minute
    python benches/imagenet_cost.py --rate 900    # hours at another rate, in TFLOP/s

The networks have the shapes of the released ones and no weights. An image takes 50 steps with classifier-free guidance.
Operations are those of torch's formulas, two for a multiplication and an addition: the denoiser with the graph that
the method needs, the decoder, and in the preparation the encoder for the real images that the method reads and the
features of the references of `dap`. What the method computes beside the prior, such as the energies, is left out, and
so are the networks of `igd`. Hours are operations divided by a rate that a GPU would have to sustain: nothing is
measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from scale import context, operations, pipeline, shaped

from dap.config import to_json
from dap.methods import get_method
from dap.priors import Demand
from dap.priors.dit import DiTPrior
from dap.priors.memory import rehearse
from dap.priors.pipeline import PipelinePrior
from dap.priors.unet import middle_block, unet_blocks
from dap.run.operations import operations_of

CLASSES, IMAGES, STEPS, GUIDANCE = 1000, 1_281_167, 50, 4.0
ALL_LATENTS = ("mgd3", "d4m")
METHODS = ("dit", "mgd3", "dap", "dap_set", "igd")
IPC = (10, 50)


class TextFree(PipelinePrior):
    """A U-Net of Stable Diffusion under hidden states of a text encoder that is not there."""

    def __init__(self, unet: Any, vae: Any, name: str) -> None:
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_end=0.004, clip_sample=False)
        device = torch.device("meta")
        made: Any = SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler, _execution_device=device, name_or_path="")
        blocks = unet_blocks(unet)
        super().__init__(made, unet, vae, blocks, size=unet.config.sample_size, name=name)
        self.recommended = {"block": middle_block(blocks)}
        self.labels = {"cat": 0}

    def _forward(self, sample: Any, timesteps: Any, labels: Any, condition: Any) -> Any:
        config, count = self.denoiser.config, len(sample)

        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(count, *shape, device="meta", dtype=sample.dtype)

        more = {}
        if config.addition_embed_type == "text_time":
            more["added_cond_kwargs"] = {"text_embeds": empty(1280), "time_ids": empty(6)}
        states = empty(77, config.cross_attention_dim)
        return self.denoiser(sample, timesteps, encoder_hidden_states=states, **more).sample


def vae(scale: float = 0.18215) -> Any:
    from diffusers import AutoencoderKL

    return shaped(
        AutoencoderKL, torch.float32, down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        norm_num_groups=32, scaling_factor=scale,
    )  # fmt: skip


def unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return shaped(UNet2DConditionModel, torch.bfloat16, **config)


def sd15() -> PipelinePrior:
    made = unet(sample_size=64, cross_attention_dim=768, attention_head_dim=8,
                block_out_channels=(320, 640, 1280, 1280))  # fmt: skip
    return TextFree(made, vae(), "SD 1.5")


def sdxl() -> PipelinePrior:
    made = unet(
        sample_size=128, cross_attention_dim=2048, attention_head_dim=(5, 10, 20), use_linear_projection=True,
        block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return TextFree(made, vae(0.13025), "SDXL")


PRIORS: dict[str, Callable[[], PipelinePrior]] = {
    "DiT-XL/2, 256 pixels": lambda: DiTPrior(pipeline(256, shaped), name="DiT-XL/2"),
    "DiT-XL/2, 512 pixels": lambda: DiTPrior(pipeline(512, shaped), name="DiT-XL/2"),
    "Stable Diffusion 1.5, 512 pixels": sd15,
    "Stable Diffusion XL, 1024 pixels": sdxl,
}


def guided_steps(options: Any) -> int:
    """The steps of a schedule in which a method guides, with its repeats."""
    start, stop = options.get("start", 0.0) or 0.0, options.get("stop", 1.0)
    inside = sum(start * STEPS <= step < (1.0 if stop is None else stop) * STEPS for step in range(STEPS))
    return inside * (options.get("recurrences") or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=400, help="TFLOP/s that a GPU sustains (default: 400)")
    args = parser.parse_args()
    columns = " | ".join(f"PFLOP at {ipc} | hours at {ipc}" for ipc in IPC)
    print(f"| prior | method | guided of {STEPS} steps | TFLOP an image | PFLOP of the preparation | {columns} |")
    print("|---" * (5 + 2 * len(IPC)) + "|")
    for title, make in PRIORS.items():
        prior = make()
        given, meta = context(prior, CLASSES), prior.without_data()  # type: ignore[arg-type]
        channels, side, _ = prior.image_shape
        image = torch.empty(1, channels, side, side, device="meta")
        encode = operations(lambda prior=prior, image=image: prior.pipeline.vae.encode(image))
        conditional = operations(lambda meta=meta: rehearse(meta, Demand(), 1.0, 1))
        for name in METHODS:
            method = get_method(name)
            options = to_json(method)
            counted = operations_of(prior, method.demands(given), GUIDANCE)
            if counted is None:
                print(f"| {title} | `{name}` | cannot be counted |")
                continue
            guided = guided_steps(options) if name != "dit" else 0
            each = counted.of(max(0, STEPS - guided), guided, 1)
            references = CLASSES * (options.get("references") or 0)
            preparation = IMAGES * encode if name in ALL_LATENTS else references * encode
            if name in ("dap", "dap_set"):
                preparation += references * conditional * (guided if name == "dap" else 1)
            cells = []
            for ipc in IPC:
                total = preparation + each * CLASSES * ipc
                cells.append(f"{total / 1e15:,.0f} | {total / args.rate / 3.6e15:,.1f}")
            before = f"{guided} | {each / 1e12:.1f} | {preparation / 1e15:,.0f}"
            print(f"| {title} | `{name}` | {before} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
