"""How to sample: the options of the denoising loop that are not a method's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dap.errors import OptionError

__all__ = ["SamplingSettings"]


@dataclass(frozen=True)
class SamplingSettings:
    """Options of the denoising loop, in diffusers' words.

    Attributes:
        num_inference_steps: Number of denoising steps.
        guidance_scale: Classifier-free guidance ε_u + s (ε_c − ε_u); 1 means conditional only.
        scheduler: "ddpm", "ddim", "dpm++", "euler" or "heun"; None for the prior's own.
        eta: DDIM's η, from 0 (deterministic) to 1; refused for schedulers that have none.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 4.0
    scheduler: str | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise OptionError(f"num_inference_steps: expected at least 1, got {self.num_inference_steps}")
        if self.guidance_scale < 1:
            raise OptionError(f"guidance_scale: expected at least 1 (no guidance), got {self.guidance_scale}")
        if not 0 <= self.eta <= 1:
            raise OptionError(f"eta: expected 0 to 1, got {self.eta}")

    @classmethod
    def choose(cls, recommended: Mapping[str, Any], **explicit: Any) -> SamplingSettings:
        """The defaults, overruled by what the prior recommends, overruled by what is not None in ``explicit``."""
        known = {key: value for key, value in recommended.items() if key in cls.__dataclass_fields__}
        return replace(cls(), **{**known, **{key: value for key, value in explicit.items() if value is not None}})
