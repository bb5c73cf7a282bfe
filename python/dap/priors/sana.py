"""The adapter to ``SanaPipeline``: linear attention over latents of a deep autoencoder, under Gemma.

Xie et al., "SANA: Efficient High-Resolution Image Synthesis with Linear Diffusion Transformers", ICLR 2025, arXiv
2410.10629. The autoencoder makes one position of a latent from 32 x 32 pixels (Chen et al., "Deep Compression
Autoencoder", ICLR 2025). The condition of a prompt is the last hidden states of Gemma 2 and the mask of the tokens. As
in diffusers, Gemma reads an instruction to enhance the prompt before the prompt itself, but not before the null prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from dap.priors.networks import uncompiled
from dap.priors.prompts import PromptedPrior

if TYPE_CHECKING:
    from diffusers import SanaPipeline

__all__ = ["SanaPrior"]

TOKENS = 300  # that the network sees, as the pipeline's own default has it
OF_PROMPT = TOKENS - 2  # with the instruction, diffusers cuts a prompt after this many
PASS, OF_TEXT = 15, 3  # values in a block of a token of the image, and of the prompt, in units of the width


class SanaPrior(PromptedPrior):
    """Sana as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``SanaPipeline``.
        template: See :class:`dap.priors.prompts.PromptedPrior`.
        prompts: See there.
        negative_prompt: The null condition of classifier-free guidance; None: the empty prompt.
        name: Name of the prior in the manifest.
        recommended: Settings for sampling, as in ``dap_prior.json``.

    Raises:
        OptionError: A template without ``{}``, or a prompt with more tokens than the network sees.

    Example:
        >>> prior = SanaPrior.from_pretrained(  # doctest: +SKIP
        ...     "Efficient-Large-Model/Sana_600M_512px_diffusers", dtype="bfloat16"
        ... )
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("SanaPipeline",)
    longest: Mapping[str, int] = {"tokenizer": OF_PROMPT}

    def __init__(
        self,
        pipeline: SanaPipeline,
        *,
        template: str = "a photo of a {}",
        prompts: Mapping[str, str] | str | Path | None = None,
        negative_prompt: str | None = None,
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        transformer = uncompiled(pipeline.transformer)
        config = transformer.config
        super().__init__(
            pipeline, transformer,
            {f"block {number}": layer for number, layer in enumerate(transformer.transformer_blocks, start=1)},
            size=config.sample_size, template=template, prompts=prompts, negative_prompt=negative_prompt, name=name,
            recommended={"num_inference_steps": 20, "guidance_scale": 4.5, **(recommended or {})},
        )  # fmt: skip
        self._instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        self.condition_shape = (TOKENS, config.caption_channels)
        width = config.num_attention_heads * config.attention_head_dim
        self.pass_bytes = (PASS * self.tokens + OF_TEXT * TOKENS) * width * self.dtype.itemsize

    @property
    def _shapes(self) -> Sequence[tuple[int, ...]]:
        return (self.condition_shape or (), (TOKENS,))

    def _encode(self, prompt: str | None) -> Sequence[Tensor]:
        """Return hidden states (tokens, width) and the mask of the tokens, 1 or 0, (tokens,)."""
        states, mask, _, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, max_sequence_length=TOKENS,
            complex_human_instruction=None if prompt == self._negative else self._instruction,
        )  # fmt: skip
        return states[0], mask[0]

    def _under(self, sample: Tensor, timesteps: Tensor, condition: Sequence[Tensor]) -> Tensor:
        states, mask = condition
        output: Tensor = self.denoiser(
            sample, encoder_hidden_states=states, timestep=timesteps * self.denoiser.config.timestep_scale,
            encoder_attention_mask=mask,
        ).sample  # fmt: skip
        return output
