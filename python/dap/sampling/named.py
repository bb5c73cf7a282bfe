"""Samplings by name: everything with which a released repository samples.

"dit-repo" is that of https://github.com/facebookresearch/DiT (Peebles and Xie, ICCV 2023), which most methods for
DiT-XL/2 took over: 50 of the 1,000 timesteps, evenly spaced from the last to the first (999, 979, 958, 938 … 20, 0),
ancestral steps with the variance that the network predicts (Nichol and Dhariwal, "Improved Denoising Diffusion
Probabilistic Models", 2021, Eq. 15), classifier-free guidance of 4 on the first three latent channels, no clipping.

"mgd3-sd" is that of MGD3 with Stable Diffusion (:mod:`dap.methods.mgd3`): 50 ancestral steps with the variance of the
posterior, classifier-free guidance of 8. The steps lie as the prior's scheduler says.

"coda-sdxl" is that of CoDA with SDXL (:mod:`dap.methods.coda`): 25 steps of DPM-Solver++ at the noise levels of Karras
et al., classifier-free guidance of 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dap.config import check_choice

__all__ = ["SAMPLINGS", "Sampling", "named_sampling"]


@dataclass(frozen=True)
class Sampling:
    """A sampling that has a name.

    Attributes:
        settings: Values of :class:`dap.sampling.SamplingSettings`.
        learned_variance: See :class:`dap.priors.Prior`.
        guided_channels: See there.
    """

    settings: Mapping[str, object]
    learned_variance: bool
    guided_channels: int | None


SAMPLINGS = {
    "dit-repo": Sampling(
        {
            "num_inference_steps": 50, "guidance_scale": 4.0, "scheduler": "ddpm", "timestep_spacing": "linspace",
            "clip_sample": False,
        },
        learned_variance=True, guided_channels=3,
    ),
    "mgd3-sd": Sampling(
        {"num_inference_steps": 50, "guidance_scale": 8.0, "scheduler": "ddpm"},
        learned_variance=False, guided_channels=None,
    ),
    "coda-sdxl": Sampling(
        {"num_inference_steps": 25, "guidance_scale": 5.0, "scheduler": "dpm++-karras"},
        learned_variance=False, guided_channels=None,
    ),
}  # fmt: skip


def named_sampling(name: str) -> Sampling:
    """Return the sampling with that name.

    Raises:
        OptionError: There is none; offers the nearest.

    Example:
        >>> named_sampling("dit-repo").settings["timestep_spacing"]
        'linspace'
    """
    check_choice("sampling", name, SAMPLINGS)
    return SAMPLINGS[name]
