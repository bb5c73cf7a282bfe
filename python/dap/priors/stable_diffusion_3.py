"""The adapter to ``StableDiffusion3Pipeline``: a transformer under three text encoders, trained by flow matching.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML 2024, arXiv 2403.03206;
versions 3 and 3.5. The condition of a prompt is the hidden states of two CLIP encoders and of T5, one after the other,
and the pooled embeddings of the CLIP encoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from dap.priors.networks import uncompiled
from dap.priors.prompts import PromptedPrior

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

__all__ = ["StableDiffusion3Prior"]

T5_TOKENS = 256  # of a prompt, as the pipeline's own default has it
PASS = 12  # values of a token in a block, in units of its width


class StableDiffusion3Prior(PromptedPrior):
    """SD3 or SD3.5 as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``StableDiffusion3Pipeline``, with or without its third text encoder.
        template: See :class:`dap.priors.prompts.PromptedPrior`.
        prompts: See there.
        negative_prompt: The null condition of classifier-free guidance; None: the empty prompt.
        name: Name of the prior in the manifest.
        recommended: Settings for sampling, as in ``dap_prior.json``.

    Raises:
        OptionError: A template without ``{}``, or a prompt with more tokens than a text encoder reads.

    Example:
        >>> prior = StableDiffusion3Prior.from_pretrained(  # doctest: +SKIP
        ...     "stabilityai/stable-diffusion-3.5-medium", dtype="bfloat16"
        ... )
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    components: ClassVar[Mapping[str, object]] = {"feature_extractor": None, "image_encoder": None}
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", "text_encoder_3")
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2", "tokenizer_3")
    longest: Mapping[str, int] = {"tokenizer_3": T5_TOKENS}

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        *,
        template: str = "a photo of a {}",
        prompts: Mapping[str, str] | str | Path | None = None,
        negative_prompt: str | None = None,
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        transformer = uncompiled(pipeline.transformer)
        config = transformer.config
        blocks = {f"block {number}": layer for number, layer in enumerate(transformer.transformer_blocks, start=1)}
        super().__init__(
            pipeline, transformer, blocks, size=config.sample_size, template=template, prompts=prompts,
            negative_prompt=negative_prompt, name=name,
            recommended={"num_inference_steps": 28, "guidance_scale": 7.0, **(recommended or {})},
        )  # fmt: skip
        self.condition_shape = (pipeline.tokenizer_max_length + T5_TOKENS, config.joint_attention_dim)
        width = config.num_attention_heads * config.attention_head_dim
        self.pass_bytes = PASS * (self.tokens + self.condition_shape[0]) * width * self.dtype.itemsize

    @property
    def _shapes(self) -> Sequence[tuple[int, ...]]:
        return (self.condition_shape or (), (self.denoiser.config.pooled_projection_dim,))

    def _encode(self, prompt: str | None) -> Sequence[Tensor]:
        """Return hidden states (tokens, width) and pooled embeddings (D,)."""
        states, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, None, None, device=self.device, do_classifier_free_guidance=False, max_sequence_length=T5_TOKENS
        )
        return states[0], pooled[0]

    def _under(self, sample: Tensor, timesteps: Tensor, condition: Sequence[Tensor]) -> Tensor:
        states, pooled = condition
        output: Tensor = self.denoiser(
            hidden_states=sample, timestep=timesteps, encoder_hidden_states=states, pooled_projections=pooled
        ).sample
        return output
