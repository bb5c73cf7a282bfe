"""U-Nets under text: what the adapters to Stable Diffusion and SDXL share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dap.config import check_number
from dap.errors import OptionError
from dap.priors.networks import uncompiled
from dap.priors.prompts import PromptedPrior
from dap.priors.unet import middle_block, pass_values, unet_blocks

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["TextUNetPrior"]


class TextUNetPrior(PromptedPrior):
    """The base of priors with a ``UNet2DConditionModel``.

    Latent consistency models (Luo et al., 2023, arXiv 2310.04378) take the scale of guidance as an input and have no
    null condition.

    Args:
        pipeline: The pipeline.
        guidance: The scale that a latent consistency model takes, at least 1; None: ``guidance_scale``. Other networks
            have no such input.
        guidance_scale: The recommended scale of classifier-free guidance of the others.
        template: See :class:`dap.priors.prompts.PromptedPrior`.
        prompts: See there.
        negative_prompt: See there.
        name: See there.
        recommended: See there.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        guidance: float | None,
        guidance_scale: float,
        template: str,
        prompts: Mapping[str, str] | str | Path | None,
        negative_prompt: str | None,
        name: str | None,
        recommended: Mapping[str, Any] | None,
    ) -> None:
        unet = uncompiled(pipeline.unet)
        blocks, width = unet_blocks(unet), unet.config.get("time_cond_proj_dim")
        if guidance is not None:
            check_number("guidance", guidance, 1)
            if width is None:
                raise OptionError(
                    f"guidance={guidance:g}: {name or 'the prior'} takes no scale as an input; leave it out. "
                    "Classifier-free guidance is an option of the run, guidance_scale (--guidance-scale)"
                )
        self._guidance, self._embedded = guidance, None
        if width is not None:  # diffusers' pipelines embed the scale minus 1
            self._guidance = guidance_scale if guidance is None else float(guidance)
            scale = torch.tensor([self._guidance - 1])
            self._embedded = pipeline.get_guidance_scale_embedding(scale, embedding_dim=width)
        self.has_null = self._embedded is None
        own = {"guidance_scale": guidance_scale if self.has_null else 1.0, "block": middle_block(blocks)}
        super().__init__(
            pipeline, unet, blocks, size=unet.config.sample_size, template=template, prompts=prompts,
            negative_prompt=negative_prompt, name=name, recommended={**own, **(recommended or {})},
        )  # fmt: skip
        self.pass_bytes = pass_values(unet) * self.dtype.itemsize

    def describe(self) -> dict[str, object]:
        """Return what every prior under text describes, and the guidance of a latent consistency model."""
        return super().describe() | ({} if self._embedded is None else {"guidance": self._guidance})

    def _predicted(self, sample: Tensor, timesteps: Tensor, states: Tensor, **more: object) -> Tensor:
        """Return the network's output for x_t under hidden states (B, tokens, width) and what else it takes."""
        scale = None if self._embedded is None else self._embedded.to(sample).expand(len(sample), -1)
        output: Tensor = self.denoiser(
            sample, timesteps, encoder_hidden_states=states, timestep_cond=scale, **more
        ).sample
        return output
