"""The adapter to ``FluxPipeline``: a transformer under CLIP and T5 that takes packed latents, trained by flow matching.

Black Forest Labs, https://github.com/black-forest-labs/flux. The transformer takes a latent (C, h, w) as tokens of
2 × 2 positions, (h w / 4, 4 C); terms and taps see the latent and the tokens of the image.

FLUX.1-dev is distilled from classifier-free guidance: the network takes the scale as an input, option ``guidance``,
and has no null condition. FLUX.1-schnell has neither, and takes 1 to 4 steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dap.config import check_number
from dap.errors import OptionError
from dap.priors.networks import uncompiled
from dap.priors.prompts import PromptedPrior

if TYPE_CHECKING:
    from diffusers import FluxPipeline

__all__ = ["FluxPrior"]

T5_TOKENS = 512  # of a prompt, as the pipeline's own default has it
SIDE = 128  # of a latent: FLUX's configuration has no size, its pipeline makes images of 1,024 pixels
PATCH = 2  # positions on each side of a token
PASS = 12  # values of a token in a block, in units of its width


class FluxPrior(PromptedPrior):
    """FLUX.1 as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``FluxPipeline``.
        size: Side of the images in pixels, a multiple of twice the first stage's factor (16); None: 1,024.
        guidance: The scale of guidance that FLUX.1-dev takes as an input, at least 0; None: 3.5. A run has
            ``guidance_scale`` 1. FLUX.1-schnell has no such input.
        template: See :class:`dap.priors.prompts.PromptedPrior`.
        prompts: See there.
        name: Name of the prior in the manifest.
        recommended: Settings for sampling, as in ``dap_prior.json``.

    Raises:
        OptionError: A template without ``{}``, a prompt with more tokens than a text encoder reads, or a wrong size.

    Example:
        >>> prior = FluxPrior.from_pretrained(  # doctest: +SKIP
        ...     "black-forest-labs/FLUX.1-dev", dtype="bfloat16", size=512
        ... )
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    components: ClassVar[Mapping[str, object]] = {"feature_extractor": None, "image_encoder": None}
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    longest: Mapping[str, int] = {"tokenizer_2": T5_TOKENS}
    has_null = False
    spaced_to_zero = True

    def __init__(
        self,
        pipeline: FluxPipeline,
        *,
        size: int | None = None,
        guidance: float | None = None,
        template: str = "a photo of a {}",
        prompts: Mapping[str, str] | str | Path | None = None,
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        transformer = uncompiled(pipeline.transformer)
        config = transformer.config
        double = {f"double {number}": layer for number, layer in enumerate(transformer.transformer_blocks, start=1)}
        single = {
            f"single {number}": layer for number, layer in enumerate(transformer.single_transformer_blocks, start=1)
        }
        if guidance is not None:
            check_number("guidance", guidance, 0)
            if not config.guidance_embeds:
                raise OptionError(f"guidance={guidance:g}: {name or 'FLUX'} takes no scale as an input; leave it out")
        self._embedded = float(3.5 if guidance is None else guidance) if config.guidance_embeds else None
        super().__init__(
            pipeline, transformer, {**double, **single}, size=_side(pipeline, size), template=template, prompts=prompts,
            negative_prompt="", name=name, channels=config.in_channels // PATCH**2,
            recommended={"num_inference_steps": 28, "guidance_scale": 1.0, **(recommended or {})},
        )  # fmt: skip
        self.condition_shape = (T5_TOKENS, config.joint_attention_dim)
        width = config.num_attention_heads * config.attention_head_dim
        self.pass_bytes = PASS * (self.tokens + T5_TOKENS) * width * self.dtype.itemsize

    def describe(self) -> dict[str, object]:
        """Return what every prior under text describes, and the embedded guidance."""
        return super().describe() | {"guidance": self._embedded}

    @property
    def _shapes(self) -> Sequence[tuple[int, ...]]:
        return (self.condition_shape or (), (self.denoiser.config.pooled_projection_dim,))

    @property
    def tokens(self) -> int:
        """See :attr:`dap.priors.pipeline.PipelinePrior.tokens`."""
        return (self.latent_shape[1] // PATCH) ** 2

    def _encode(self, prompt: str | None) -> Sequence[Tensor]:
        """Return hidden states (tokens, width) and the pooled embedding (D,)."""
        states, pooled, _ = self.pipeline.encode_prompt(prompt, None, device=self.device, max_sequence_length=T5_TOKENS)
        return states[0], pooled[0]

    def _under(self, sample: Tensor, timesteps: Tensor, condition: Sequence[Tensor]) -> Tensor:
        states, pooled = condition
        side = sample.shape[-1] // PATCH
        places = torch.zeros(side, side, 3, device=sample.device, dtype=sample.dtype)
        places[..., 1] = torch.arange(side, device=sample.device)[:, None]
        places[..., 2] = torch.arange(side, device=sample.device)
        scale = None if self._embedded is None else sample.new_full((len(sample),), self._embedded, dtype=torch.float32)
        output = self.denoiser(
            hidden_states=_packed(sample), timestep=timesteps.to(sample.dtype) / 1000, guidance=scale,
            pooled_projections=pooled, encoder_hidden_states=states, txt_ids=places.new_zeros(states.shape[1], 3),
            img_ids=places.view(-1, 3),
        ).sample  # fmt: skip
        return _unpacked(output, side)


def _side(pipeline: FluxPipeline, size: int | None) -> int:
    """Return the side of a latent for images of this size."""
    if size is None:
        return SIDE
    factor = int(pipeline.vae_scale_factor)
    if type(size) is not int or size < 1 or size % (PATCH * factor):
        raise OptionError(f"size: expected a multiple of {PATCH * factor} pixels, got {size!r}")
    return size // factor


def _packed(latents: Tensor) -> Tensor:
    """Return latents (B, C, h, w) as tokens (B, h w / 4, 4 C)."""
    batch, channels, side, _ = latents.shape
    patches = latents.view(batch, channels, side // PATCH, PATCH, side // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (side // PATCH) ** 2, channels * PATCH**2)


def _unpacked(tokens: Tensor, side: int) -> Tensor:
    """Return tokens (B, side², 4 C) as latents (B, C, 2 side, 2 side)."""
    patches = tokens.view(len(tokens), side, side, -1, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(len(tokens), -1, PATCH * side, PATCH * side)
