"""The options of the denoising loop that belong to no method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dap.config import check_number, check_whole, from_options
from dap.errors import OptionError

__all__ = ["SamplingSettings"]


@dataclass(frozen=True)
class SamplingSettings:
    """Options of the denoising loop, under diffusers' names.

    Attributes:
        num_inference_steps: Number of denoising steps, at least 1.
        guidance_scale: The scale s of classifier-free guidance ε_u + s (ε_c − ε_u), at least 1; with 1 the conditional
            estimate is used alone.
        scheduler: "ddpm", "ddim", "dpm++", "euler" or "heun"; None for the prior's own.
        eta: DDIM's η, from 0 (deterministic) to 1; it has to be 0 for a scheduler that has no η.

    Raises:
        OptionError: A number is outside its range.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 4.0
    scheduler: str | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        check_whole("num_inference_steps", self.num_inference_steps)
        check_number("guidance_scale", self.guidance_scale, 1)
        check_number("eta", self.eta, 0, 1)
        if not isinstance(self.scheduler, str | None):
            raise OptionError(f"scheduler: expected a name or None, got {self.scheduler!r}")

    @classmethod
    def choose(cls, recommended: Mapping[str, object], **explicit: object) -> SamplingSettings:
        """Return settings: the caller's values, else the prior's recommendations, else the defaults.

        Args:
            recommended: The prior's recommendations; keys that are not settings are ignored.
            **explicit: The caller's values; None stands for "not given".
        """
        known = {key: value for key, value in recommended.items() if key in cls.__dataclass_fields__}
        values = {key: value for key, value in explicit.items() if value is not None}
        return from_options(cls, {**known, **values}, "the sampling settings")
