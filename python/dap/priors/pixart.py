"""The adapter to ``PixArtAlphaPipeline`` and ``PixArtSigmaPipeline``: a DiT under T5.

Chen et al., "PixArt-α: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis", ICLR 2024,
arXiv 2310.00426; Chen et al., "PixArt-Σ", ECCV 2024, arXiv 2403.04692. The condition of a prompt is the hidden states
of T5 and the mask of its tokens. Networks of PixArt-α for 1,024 pixels also take the size and the aspect ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from dap.priors.networks import uncompiled
from dap.priors.prompts import PromptedPrior

if TYPE_CHECKING:
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline

__all__ = ["PixArtPrior"]

TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # of a prompt, as each pipeline's default has it
PASS = 12  # values of a token in a block, in units of its width


class PixArtPrior(PromptedPrior):
    """PixArt-α or PixArt-Σ as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``PixArtAlphaPipeline`` or ``PixArtSigmaPipeline``.
        template: See :class:`dap.priors.prompts.PromptedPrior`.
        prompts: See there.
        negative_prompt: The null condition of classifier-free guidance; None: the empty prompt.
        name: Name of the prior in the manifest.
        recommended: Settings for sampling, as in ``dap_prior.json``.

    Raises:
        OptionError: A template without ``{}``, or a prompt with more tokens than the text encoder reads.

    Example:
        >>> prior = PixArtPrior.from_pretrained("PixArt-alpha/PixArt-XL-2-512x512", dtype="bfloat16")  # doctest: +SKIP
    """

    pipeline_types: ClassVar[tuple[str, ...]] = tuple(TOKENS)

    def __init__(
        self,
        pipeline: PixArtAlphaPipeline | PixArtSigmaPipeline,
        *,
        template: str = "a photo of a {}",
        prompts: Mapping[str, str] | str | Path | None = None,
        negative_prompt: str | None = None,
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        transformer = uncompiled(pipeline.transformer)
        config = transformer.config
        self._most = TOKENS[type(pipeline).__name__]
        self.longest = {"tokenizer": self._most}
        super().__init__(
            pipeline, transformer,
            {f"block {number}": layer for number, layer in enumerate(transformer.transformer_blocks, start=1)},
            size=config.sample_size, template=template, prompts=prompts, negative_prompt=negative_prompt, name=name,
            recommended={"num_inference_steps": 20, "guidance_scale": 4.5, **(recommended or {})},
        )  # fmt: skip
        self.condition_shape = (self._most, config.caption_channels or config.cross_attention_dim)
        width = config.num_attention_heads * config.attention_head_dim
        self.pass_bytes = PASS * self.tokens * width * self.dtype.itemsize

    @property
    def _shapes(self) -> Sequence[tuple[int, ...]]:
        return (self.condition_shape or (), (self._most,))

    def _encode(self, prompt: str | None) -> Sequence[Tensor]:
        """Return hidden states (tokens, width) and the mask of the tokens, 1 or 0, (tokens,)."""
        states, mask, _, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self._most
        )
        return states[0], mask[0]

    def _under(self, sample: Tensor, timesteps: Tensor, condition: Sequence[Tensor]) -> Tensor:
        states, mask = condition
        added: dict[str, Tensor | None] = dict.fromkeys(("resolution", "aspect_ratio"))
        if self.denoiser.config.sample_size == 128:  # as the pipelines decide it
            side = sample.new_tensor(self.image_shape[1:])
            added = {
                "resolution": side.expand(len(sample), 2),
                "aspect_ratio": sample.new_ones(len(sample), 1),
            }
        output: Tensor = self.denoiser(
            sample, encoder_hidden_states=states, encoder_attention_mask=mask, timestep=timesteps,
            added_cond_kwargs=added,
        ).sample  # fmt: skip
        return output
