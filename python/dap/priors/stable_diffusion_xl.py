"""The adapter to ``StableDiffusionXLPipeline``: a larger U-Net under the text of two encoders.

Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", 2023, arXiv 2307.01952.
Beside the hidden states of both encoders, the U-Net reads the pooled state of the second and six numbers: the size of
the original image, the corner of its crop, and the size wanted. As in diffusers' pipeline, the image is whole.

A condition has the hidden states and, in further rows, the pooled state, filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from dap.errors import OptionError
from dap.priors.stable_diffusion import StableDiffusionPrior

if TYPE_CHECKING:
    from diffusers import ModelMixin, StableDiffusionXLPipeline

__all__ = ["StableDiffusionXLPrior"]


class StableDiffusionXLPrior(StableDiffusionPrior):
    """Stable Diffusion XL as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``StableDiffusionXLPipeline`` with both of its text encoders; refiners have one.
        template: See :class:`dap.priors.stable_diffusion.StableDiffusionPrior`, and there for the others. Concepts are
            not learned for two encoders.
        prompts: See there.
        negative_prompt: See there. An empty one is all zeros where the pipeline makes it so.
        name: See there.
        recommended: See there.
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    components: ClassVar[Mapping[str, object]] = {}
    other_conditions: ClassVar[Mapping[str, object]] = {"addition_embed_type": "text_time"}

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        *,
        template: str = "a photo of a {}",
        prompts: Mapping[str, str] | str | Path | None = None,
        negative_prompt: str = "",
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
            raise OptionError(
                f"{name or 'prior'}: expected two text encoders; a refiner alone makes no images from noise"
            )
        super().__init__(
            pipeline, template=template, prompts=prompts, negative_prompt=negative_prompt, name=name,
            recommended={"guidance_scale": 5.0, **(recommended or {})},
        )  # fmt: skip
        pipeline.text_encoder_2.eval().requires_grad_(False)
        tokens, width = self.condition_shape or (0, 0)
        self._tokens, self._pooled_width = tokens, int(pipeline.text_encoder_2.config.projection_dim)
        self.condition_shape = (tokens + -(-self._pooled_width // width), width)

    def concept(self, name: str, vectors: int) -> Tensor:
        """Raise OptionError: concepts are not learned for two encoders."""
        raise OptionError(
            f"{self.name}: concepts are learned for one text encoder, this has two; use Stable Diffusion 1 or 2"
        )

    def _networks(self) -> list[ModelMixin]:
        return [*super()._networks(), self.pipeline.text_encoder_2]

    def _encoded(self, prompt: str) -> Tensor:
        states, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        states, pooled = states[0], pooled[0].to(states.dtype)
        if prompt == self._negative == "" and self.pipeline.config.force_zeros_for_empty_prompt:
            states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
        missing = -len(pooled) % states.shape[1]
        return torch.cat([states, pad(pooled, (0, missing)).view(-1, states.shape[1])])

    def _output(self, sample: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        _, height, width = self.image_shape
        sizes: Sequence[int] = (height, width, 0, 0, height, width)
        more = {
            "text_embeds": states[:, self._tokens :].flatten(1)[:, : self._pooled_width],
            "time_ids": torch.tensor(sizes, dtype=states.dtype, device=states.device).expand(len(sample), -1),
        }
        output: Tensor = self.denoiser(
            sample, timesteps, encoder_hidden_states=states[:, : self._tokens], added_cond_kwargs=more
        ).sample
        return output
