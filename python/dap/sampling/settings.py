"""The options of the denoising loop that belong to no method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from dap.config import check_choice, check_number, check_whole, from_options
from dap.errors import OptionError
from dap.sampling.named import named_sampling

__all__ = ["SPACINGS", "SamplingSettings"]

SPACINGS = ("leading", "linspace", "trailing")
UNSPACED = ("dpm++-karras", "lcm")  # schedulers with steps of their own


@dataclass(frozen=True)
class SamplingSettings:
    """Options of the denoising loop, under diffusers' names.

    Attributes:
        num_inference_steps: Number of denoising steps, at least 1.
        guidance_scale: The scale s of classifier-free guidance ε_u + s (ε_c − ε_u), at least 1; with 1 the conditional
            estimate is used alone.
        scheduler: "ddpm", "ddim", "dpm++", "dpm++-karras", "euler", "euler-ancestral", "heun" or "lcm"; None for the
            prior's own.
        eta: DDIM's η, from 0 (deterministic) to 1; it has to be 0 for a scheduler that has no η.
        timestep_spacing: How the steps lie in the schedule, "leading", "linspace" or "trailing" (Lin et al., "Common
            Diffusion Noise Schedules and Sample Steps are Flawed", 2024, Table 2); None: as in the prior's scheduler.
        clip_sample: Whether "ddpm" and "ddim" clip x̂_0; None: as in the prior's scheduler.

    Raises:
        OptionError: A number is outside its range.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 4.0
    scheduler: str | None = None
    eta: float = 0.0
    timestep_spacing: str | None = None
    clip_sample: bool | None = None

    def __post_init__(self) -> None:
        check_whole("num_inference_steps", self.num_inference_steps)
        check_number("guidance_scale", self.guidance_scale, 1)
        check_number("eta", self.eta, 0, 1)
        if not isinstance(self.scheduler, str | None):
            raise OptionError(f"scheduler: expected a name or None, got {self.scheduler!r}")
        if self.timestep_spacing is not None:
            check_choice("timestep_spacing", self.timestep_spacing, SPACINGS)
        if not isinstance(self.clip_sample, bool | None):
            raise OptionError(f"clip_sample: expected True, False or None, got {self.clip_sample!r}")

    @classmethod
    def choose(
        cls, recommended: Mapping[str, object], sampling: str | None = None, **explicit: object
    ) -> SamplingSettings:
        """Return settings: the caller's values, else the named sampling's or the prior's recommendations, or defaults.

        Args:
            recommended: The prior's recommendations; keys that are not settings are ignored.
            sampling: Name of a sampling, whose settings take the place of the recommendations; None: none.
            **explicit: The caller's values; None stands for "not given".

        Raises:
            OptionError: There is no sampling of that name, or a value is wrong.
        """
        known = recommended if sampling is None else named_sampling(sampling).settings
        known = {key: value for key, value in known.items() if key in cls.__dataclass_fields__}
        values = {key: value for key, value in explicit.items() if value is not None}
        if values.get("scheduler") in UNSPACED:
            known.pop("timestep_spacing", None)  # it is that of another scheduler
        return from_options(cls, {**known, **values}, "the sampling settings")

    def to_json(self) -> dict[str, object]:
        """Return the fields as the manifest has them; an option that is left to the prior's scheduler is not in it.

        Example:
            >>> SamplingSettings(timestep_spacing="trailing").to_json()["timestep_spacing"]
            'trailing'
        """
        left = [name for name in ("timestep_spacing", "clip_sample") if getattr(self, name) is None]
        return {name: value for name, value in asdict(self).items() if name not in left}
