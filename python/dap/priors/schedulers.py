"""diffusers' schedulers: making one by name, and what of it can be used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from dap.errors import OptionError
from dap.registry import unknown_name_error

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

__all__ = [
    "DPM", "EXPLODING", "FLOW", "SPACED", "SPACINGS", "check_guidable", "check_schedule", "clip_range", "is_kind",
    "is_spaced", "make_scheduler", "of_flow", "public", "remembers", "scheduler_name", "with_steps",
]  # fmt: skip

# Classes of diffusers by their names: what needs no prior does not wait for its import, which takes seconds.
SCHEDULERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-karras": "DPMSolverMultistepScheduler",  # with use_karras_sigmas
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lcm": "LCMScheduler",
}
DPM, PNDM, FLOW = SCHEDULERS["dpm++"], "PNDMScheduler", "FlowMatchEulerDiscreteScheduler"
EXPLODING = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")
KNOWN = (*SCHEDULERS.values(), PNDM)
SPACED = (*EXPLODING, DPM)
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
NEEDED = ("prediction_type", "num_train_timesteps", "beta_schedule")  # what every schedule of ᾱ has
UNUSABLE = {  # settings under which a timestep no longer stands for its ᾱ
    "use_flow_sigmas": (True, "its noise levels are those of flow matching"),
    "timestep_type": ("continuous", "its timesteps are logarithms of σ"),
    "rescale_betas_zero_snr": (True, "it starts from pure noise, where ε does not give x_0"),
}


def is_kind(scheduler: SchedulerMixin, *names: str) -> bool:
    """Return whether a scheduler is of one of diffusers' classes, by their names, or of a subclass."""
    return isinstance(scheduler, tuple(map(_class, names)))


def make_scheduler(
    base: SchedulerMixin,
    name: str | None,
    num_inference_steps: int,
    *,
    device: torch.device,
    learned_variance: bool = False,
) -> SchedulerMixin:
    """Return a fresh scheduler with its steps set; it takes noise estimates ε, even if the network predicts v.

    Args:
        base: The pipeline's scheduler, whose noise schedule is kept.
        name: One of ``SCHEDULERS``; None: the kind of ``base``.
        num_inference_steps: Number of steps.
        device: Where its timesteps live.
        learned_variance: Use the variance that the network predicts; only DDPM can.

    Raises:
        OptionError: An unknown name, more steps than the schedule has, or a scheduler that cannot be used.
    """
    if name is not None and name not in SCHEDULERS:
        raise unknown_name_error("scheduler", name, SCHEDULERS)
    kind = _class(SCHEDULERS[name]) if name else type(base)
    check_guidable(kind, base.config)
    config = base.config
    if kind is _class(PNDM) and config.prediction_type != "epsilon":
        raise OptionError(
            "PNDMScheduler: works with networks that predict ε, this one predicts v; choose scheduler='ddim'"
        )
    # DPM-Solver++ cannot take every step of the schedule
    longest = config.num_train_timesteps - (kind is _class(DPM))
    if num_inference_steps > longest:
        raise OptionError(
            f"num_inference_steps: {kind.__name__} takes at most {longest} here, got {num_inference_steps}"
        )
    overrides: dict[str, object] = {"prediction_type": "epsilon"}
    if kind is _class(DPM):
        # With a learned variance it would cut the latents to three channels. It cannot clip x_0: with the
        # squared-cosine schedule the log-SNR of the first steps has to be bounded instead.
        overrides |= {"variance_type": None, "algorithm_type": "dpmsolver++"}
        if name == "dpm++-karras":
            overrides |= {"use_karras_sigmas": True}
        if config.beta_schedule == "squaredcos_cap_v2":
            overrides["lambda_min_clipped"] = -5.1
    if learned_variance and kind is not _class("DDPMScheduler"):
        raise OptionError(f"learned_variance needs scheduler='ddpm', got {kind.__name__}")
    if kind is _class("DDPMScheduler"):
        variance = config.get("variance_type") or "fixed_small"
        fixed = "fixed_small" if variance.startswith("learned") else variance
        overrides["variance_type"] = "learned_range" if learned_variance else fixed
    return with_steps(kind, config, overrides, num_inference_steps, device)


def check_guidable(kind: type, config: Mapping[str, object]) -> None:
    """Raise OptionError unless dap can guide with a kind of scheduler under a configuration."""
    if kind not in map(_class, KNOWN):
        names = " or ".join(map(repr, SCHEDULERS))
        raise OptionError(f"{kind.__name__}: dap cannot guide with this scheduler; choose scheduler={names}")
    for option, (value, reason) in UNUSABLE.items():
        if config.get(option) == value:
            raise OptionError(f"{kind.__name__}: {option}={value!r} cannot be guided, {reason}; turn it off")


def with_steps(
    kind: Any, config: Mapping[str, object], overrides: Mapping[str, object], steps: int, device: torch.device
) -> SchedulerMixin:
    """Return a scheduler of a configuration with some values replaced and its steps set, or raise OptionError."""
    # Pass all public values that the kind has: a pipeline and its saved folder then give the same samples. From an
    # object, from_config would replace values that were left at the old kind's defaults by the new kind's defaults.
    known = inspect.signature(kind.__init__).parameters
    try:
        scheduler: SchedulerMixin = kind.from_config(
            {option: value for option, value in public(config).items() if option in known}, **overrides
        )
        scheduler.set_timesteps(steps, device=device)
    except (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise OptionError(
            f"num_inference_steps: {kind.__name__} cannot take {steps} with its configuration ({error}); "
            "choose another number, or scheduler='ddim'"
        ) from error
    # With some numbers diffusers rounds "trailing" to a further step at t = -1. steps_offset can move the noisiest step
    # behind the last of the schedule.
    wrong = [] if of_flow(scheduler) else _outside(scheduler)
    if wrong:
        raise OptionError(
            f"num_inference_steps: {kind.__name__} makes timesteps outside its schedule with {steps} "
            f"({', '.join(f'{t:g}' for t in wrong)}); choose another number, or another timestep_spacing"
        )
    return scheduler


def is_spaced(scheduler: SchedulerMixin) -> bool:
    """Return whether ``timestep_spacing`` changes the steps of a scheduler that has it.

    LCM takes its steps from those of its distillation. Multistep solvers that space their steps by sigma begin at the
    ends of the whole schedule, Euler's and Heun's at those of the spaced timesteps.
    """
    by_sigma = any(scheduler.config.get(option) for option in SPACINGS)
    return not is_kind(scheduler, SCHEDULERS["lcm"]) and (not by_sigma or is_kind(scheduler, *EXPLODING))


def _outside(scheduler: SchedulerMixin) -> list[float]:
    """Return the timesteps that are no number of a step of training."""
    last = scheduler.config.num_train_timesteps - 1
    return [t for t in scheduler.timesteps.tolist() if not 0 <= t <= last]


def check_schedule(name: str, scheduler: SchedulerMixin) -> str:
    """Return what a network predicts, "epsilon", "v_prediction" or "flow", by its scheduler.

    Args:
        name: Name of the prior, for errors.
        scheduler: The pipeline's scheduler.

    Raises:
        OptionError: The scheduler has no schedule of ᾱ and is not that of flow matching, or the network predicts
            something else.
    """
    if of_flow(scheduler):
        return "flow"
    missing = [key for key in NEEDED if key not in scheduler.config]
    if missing:
        raise OptionError(
            f"{name}: expected a scheduler with a schedule of ᾱ, such as DDIMScheduler, or "
            f"FlowMatchEulerDiscreteScheduler; {type(scheduler).__name__} has no {' and no '.join(missing)}"
        )
    predicts = scheduler.config.prediction_type
    if predicts not in ("epsilon", "v_prediction"):
        raise OptionError(f"{name}: expected a network that predicts epsilon or v, got {predicts}")
    return str(predicts)


def of_flow(scheduler: SchedulerMixin) -> bool:
    """Return whether a scheduler samples a network that was trained by flow matching (:mod:`dap.priors.flow`)."""
    if is_kind(scheduler, DPM):  # of Sana
        config = scheduler.config
        return bool(config.use_flow_sigmas) and config.prediction_type == "flow_prediction"
    return is_kind(scheduler, FLOW)


def clip_range(scheduler: SchedulerMixin) -> float | None:
    """Return the largest |x̂_0| that the scheduler allows; None if it does not clip."""
    if is_kind(scheduler, "DDPMScheduler", "DDIMScheduler", "LCMScheduler") and scheduler.config.clip_sample:
        return float(scheduler.config.clip_sample_range)
    return None


def remembers(scheduler: SchedulerMixin) -> bool:
    """Return whether a step depends on earlier steps, so that it cannot be repeated."""
    return not is_kind(scheduler, "DDPMScheduler", "DDIMScheduler")


def scheduler_name(scheduler: SchedulerMixin) -> str:
    """Return the name of a scheduler in ``SCHEDULERS``; that of its class if it has none there.

    Example:
        >>> from diffusers import DPMSolverMultistepScheduler, PNDMScheduler
        >>> scheduler_name(DPMSolverMultistepScheduler(use_karras_sigmas=True)), scheduler_name(PNDMScheduler())
        ('dpm++-karras', 'PNDM')
    """
    by_class = {kind: name for name, kind in SCHEDULERS.items() if name != "dpm++-karras"}
    kind = type(scheduler).__name__
    name = by_class.get(kind, kind.removesuffix("Scheduler"))
    return f"{name}-karras" if name == "dpm++" and scheduler.config.use_karras_sigmas else name


def public(config: Mapping[str, object]) -> dict[str, object]:
    """Return a diffusers configuration without the entries that depend on the file and version that it came from."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _class(name: str) -> type:
    import diffusers

    kind: type = getattr(diffusers, name)
    return kind
