"""The denoising loop and what guides it."""

from dap.sampling.loop import StepCallback, check_settings, sample
from dap.sampling.objective import denoising_loss, draw_noised, noised_latents
from dap.sampling.settings import SamplingSettings
from dap.sampling.term import DeltaTerm, EnergyTerm, StepState, Term, Window

__all__ = [
    "DeltaTerm",
    "EnergyTerm",
    "SamplingSettings",
    "StepCallback",
    "StepState",
    "Term",
    "Window",
    "check_settings",
    "denoising_loss",
    "draw_noised",
    "noised_latents",
    "sample",
]
