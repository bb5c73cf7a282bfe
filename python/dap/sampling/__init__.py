"""The denoising loop, its settings, and the terms that guide it."""

from dap.sampling.loop import StepCallback, sample
from dap.sampling.objective import denoising_loss, draw_noised, noised_latents
from dap.sampling.parts import denoise_in_parts
from dap.sampling.schedule import as_sampled, check_settings, differences, scheduler_of, steps_taken
from dap.sampling.settings import SamplingSettings
from dap.sampling.steering import ENERGY
from dap.sampling.term import DeltaTerm, EnergyTerm, Needs, Place, StepState, Term, Window

__all__ = [
    "ENERGY",
    "DeltaTerm",
    "EnergyTerm",
    "Needs",
    "Place",
    "SamplingSettings",
    "StepCallback",
    "StepState",
    "Term",
    "Window",
    "as_sampled",
    "check_settings",
    "denoise_in_parts",
    "denoising_loss",
    "differences",
    "draw_noised",
    "noised_latents",
    "sample",
    "scheduler_of",
    "steps_taken",
]
