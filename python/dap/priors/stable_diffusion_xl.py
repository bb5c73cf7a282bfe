"""The adapter to ``StableDiffusionXLPipeline``: a U-Net under two text encoders and the size of its images.

Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", ICLR 2024, arXiv
2307.01952. The condition of a prompt is the hidden states of both encoders, side by side, and the second one's pooled
embedding; beside it stand the size of the original image, its crop and the size that is wanted, here always the whole
image at the prior's size. The refiner is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dap.errors import OptionError
from dap.priors.networks import uncompiled
from dap.priors.text_unet import TextUNetPrior

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

__all__ = ["StableDiffusionXLPrior"]


class StableDiffusionXLPrior(TextUNetPrior):
    """SDXL as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``StableDiffusionXLPipeline``.
        template: See :class:`dap.priors.prompts.PromptedPrior`.
        prompts: See there.
        negative_prompt: See there. None: zeros in place of hidden states, as SDXL's pipeline has it without one.
        guidance: See :class:`dap.priors.stable_diffusion.StableDiffusionPrior`; None: 5.
        name: Name of the prior in the manifest.
        recommended: Settings for sampling, as in ``dap_prior.json``.

    Raises:
        OptionError: A template without ``{}``, a prompt with more tokens than a text encoder reads, or a U-Net with
            other conditions than SDXL's.

    Example:
        >>> prior = StableDiffusionXLPrior.from_pretrained(  # doctest: +SKIP
        ...     "stabilityai/stable-diffusion-xl-base-1.0", variant="fp16", dtype="bfloat16"
        ... )
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    components: ClassVar[Mapping[str, object]] = {"feature_extractor": None, "image_encoder": None}
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    no_prompt: ClassVar[str | None] = None
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        *,
        template: str = "a photo of a {}",
        prompts: Mapping[str, str] | str | Path | None = None,
        negative_prompt: str | None = None,
        guidance: float | None = None,
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        config = uncompiled(pipeline.unet).config
        added = config.get("addition_embed_type")
        if added != "text_time" or pipeline.text_encoder_2 is None:
            raise OptionError(
                f"{name or 'prior'}: expected SDXL's U-Net and second text encoder, got a U-Net with the added "
                f"condition {added} and {'no' if pipeline.text_encoder_2 is None else 'a'} second encoder"
            )
        super().__init__(
            pipeline, guidance=guidance, guidance_scale=5.0, template=template, prompts=prompts,
            negative_prompt=negative_prompt, name=name, recommended=recommended,
        )  # fmt: skip
        self._pooled = int(pipeline.text_encoder_2.config.projection_dim)
        self.condition_shape = (pipeline.tokenizer_2.model_max_length, int(config.cross_attention_dim))

    @property
    def _shapes(self) -> Sequence[tuple[int, ...]]:
        return (self.condition_shape or (), (self._pooled,))

    def _encode(self, prompt: str | None) -> Sequence[Tensor]:
        """Return hidden states (tokens, width) and the pooled embedding (D,)."""
        states, no_states, pooled, not_pooled = self.pipeline.encode_prompt(
            prompt or "", device=self.device, do_classifier_free_guidance=prompt is None
        )
        return (states[0], pooled[0]) if prompt is not None else (no_states[0], not_pooled[0])

    def _under(self, sample: Tensor, timesteps: Tensor, condition: Sequence[Tensor]) -> Tensor:
        states, pooled = condition
        side = self.image_shape[1]
        sizes = torch.tensor([side, side, 0, 0, side, side], dtype=sample.dtype, device=sample.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(sample), 6)}
        return self._predicted(sample, timesteps, states, added_cond_kwargs=added)
