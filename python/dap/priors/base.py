"""The Prior: the one place that knows which kind of network denoises.

Maths, with ᾱ_t the scheduler's cumulative product: x_t = α_t x_0 + σ_t ε, α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Prediction", "Prior"]


@dataclass(frozen=True)
class Prediction:
    """What one evaluation of the denoiser gives.

    Attributes:
        eps: The noise estimate after classifier-free guidance, float32 with shape (B, C, h, w).
        variance: The learned interpolation values of the variance, of the same shape, or None.
        features: Hidden tokens of the conditional pass, (B, T, D) in the model's dtype, by number of the block.
    """

    eps: Tensor
    variance: Tensor | None
    features: Mapping[int, Tensor]


class Prior(Protocol):
    """A frozen diffusion model: VAE, denoiser and noise schedule.

    Attributes:
        name: What the manifest calls it.
        has_null: Whether there is a null condition, which classifier-free guidance needs.
        latent_shape: (C, h, w) of a latent.
        image_shape: (channels, height, width) of an image.
        block_names: Names of the blocks that can be tapped, in the order in which they run; counted from 1.
        recommended: Settings that the prior's folder recommends (``dap_prior.json``); see :mod:`dap.sampling.settings`.
        slot_bytes: Rough memory in bytes that one slot takes in a guided step; batch sizes are planned with it.
        condition_shape: Shape of what stands for a label inside the network: (tables, D) of class embeddings, of which
            a DiT has one in each block, (tokens, D) of text; None where there is no condition.
        device: Where the networks live.
        dtype: The denoiser's dtype.
    """

    name: str
    has_null: bool
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    block_names: tuple[str, ...]
    recommended: Mapping[str, Any]
    slot_bytes: int
    condition_shape: tuple[int, int] | None
    device: torch.device
    dtype: torch.dtype

    def labels_of(self, class_names: Sequence[str]) -> Mapping[str, int]:
        """Label names that the prior knows, each with its id; several names may share an id.

        A prior that takes text, or no condition, knows whatever name it is asked for. The id of a name is the same
        whatever others it is asked for with.
        """

    def describe(self) -> dict[str, Any]:
        """What the manifest records: name, options, and the hash of weights and configuration."""

    def encode(self, images: Tensor) -> Tensor:
        """Latents (mean of the posterior, scaled), float32 (B, C, h, w), of uint8 images (B, channels, H, W)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images, uint8 (B, channels, H, W) on the CPU, of latents with shape (B, C, h, w)."""

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """The decoder's own output before rounding: float32 (B, channels, H, W), black at −1 and white at 1.

        It is not clipped, stays on the prior's device, and with gradients enabled carries the graph to ``latents``.
        """

    def scheduler(self, name: str | None, num_inference_steps: int) -> Any:
        """A fresh diffusers scheduler with its steps set, for noise estimates; the prior's own kind, or by name."""

    def denoise(
        self,
        sample: Tensor,
        timestep: Tensor,
        labels: Tensor,
        *,
        guidance_scale: float = 1.0,
        taps: Collection[int] = (),
        through: bool = False,
        condition: Tensor | None = None,
    ) -> Prediction:
        """One evaluation of the denoiser at x_t, with shape (B, C, h, w), already scaled for the model.

        ``timestep`` is one for all, or one for each slot. ``condition``, (B, *condition_shape), stands in place of that
        of the labels; with ``through`` the graph reaches it too.

        With gradients enabled, the graph from ``sample`` reaches the tapped blocks and ends at the deepest of them,
        unless ``through`` is set: then it reaches ``eps``.
        """

    def condition(self, labels: Tensor) -> Tensor:
        """What stands for labels inside the network, float32 (B, *condition_shape).

        Raises:
            OptionError: The network has no condition.
        """

    def features(self, sample: Tensor, timestep: Tensor, labels: Tensor, block: int) -> Tensor:
        """Tokens (B, T, D) after one block for x_t, running the denoiser no further than that block."""
