"""Guidance in the steps of somebody else's sampler: ``scheduler.step`` is wrapped while a pipeline is guided."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dap.errors import OptionError
from dap.pipelines.network_call import NetworkCall, guidance_scale, recorded
from dap.pipelines.terms import PipelineCall, TermsOfCall
from dap.priors.noise_levels import Level, level
from dap.priors.schedulers import clip_range
from dap.priors.taps import network_lock, tapped
from dap.sampling import StepState, Term
from dap.sampling.steering import ActiveTerms, active_terms, ancestral_std, changed, estimated_x0
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from dap.priors.pipeline import PipelinePrior

__all__ = ["Guidance"]


class Guidance:
    """The guidance of one pipeline: it records the network's calls, and changes the scheduler's steps.

    Args:
        pipe: The pipeline.
        prior: Its networks as a prior.
        terms: Returns the terms of a call.
    """

    def __init__(self, pipe: DiffusionPipeline, prior: PipelinePrior, terms: TermsOfCall) -> None:
        self._scheduler, self._prior, self._terms_of_call = pipe.scheduler, prior, terms
        self._network = pipe.components.get("transformer") or pipe.components["unet"]
        self._of_v = self._scheduler.config.prediction_type == "v_prediction"
        self._recording = True
        self._last: NetworkCall | None = None
        self._forget()

    def _forget(self) -> None:
        """Begin a new call of the pipeline."""
        self._step: int | None = None
        self._terms: Sequence[Term] = ()
        self._labels = torch.zeros(0, dtype=torch.int64)
        self._first: dict[int, Tensor] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Return a context in which the pipeline is guided."""
        scheduler = self._scheduler
        set_timesteps, step = scheduler.set_timesteps, scheduler.step

        @functools.wraps(set_timesteps)
        def begin(*args: Any, **kwargs: Any) -> Any:
            self._forget()
            return set_timesteps(*args, **kwargs)

        @functools.wraps(step)
        def guided(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            with own_torch_state(), torch.no_grad():
                change = self._change(model_output, timestep, sample)
            if change is None:
                return step(model_output, timestep, sample, *args, **kwargs)
            to_output, to_sample = change
            result = step(model_output + to_output.to(model_output), timestep, sample, *args, **kwargs)
            if isinstance(result, tuple):
                return (result[0] + to_sample.to(result[0]), *result[1:])
            result.prev_sample = result.prev_sample + to_sample.to(result.prev_sample)
            return result

        with ExitStack() as stack:
            stack.enter_context(recorded(self._network, self._record))
            for name, replacement in (("set_timesteps", begin), ("step", guided)):
                setattr(scheduler, name, replacement)
                stack.callback(delattr, scheduler, name)  # the class's own comes back
            yield

    def _record(self, call: NetworkCall) -> None:
        if self._recording:
            self._last = call

    def _change(self, model_output: Tensor, timestep: Any, sample: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what the terms add to the network's output and to the next sample; None if no term acts."""
        call = self._last
        if call is None:
            raise OptionError("scheduler.step: it was called without the pipeline's network; guide the pipeline's call")
        labels = call.labels
        count = len(sample) if labels is None else len(labels)
        x = sample[:count].detach().float().clone()
        first_step = self._step is None
        self._step = self._number(timestep) if self._step is None else self._step + 1
        self._recording = False  # what dap evaluates is not the pipeline's
        try:
            if first_step:
                begun = PipelineCall(self._prior, self._scheduler, x.shape, None if labels is None else labels.cpu())
                with torch.enable_grad():
                    self._terms, self._labels = self._terms_of_call(begun)
            active = active_terms(self._terms, self._step, len(self._scheduler.timesteps))
            if not active:
                return None
            noise_level = level(self._scheduler, self._step)
            output = model_output[:count].detach().float()
            eps, state = self._state(call, active, x, output, timestep, noise_level)
            changed_eps, to_sample = changed(active, state, eps, noise_level, self._first, {})
        finally:
            self._recording = True
        to_output = (changed_eps - eps) / (noise_level.alpha / noise_level.scale if self._of_v else 1)
        copies = len(sample) // count  # DiTPipeline keeps two of each image
        return to_output.repeat(copies, 1, 1, 1), to_sample.repeat(copies, 1, 1, 1)

    def _number(self, timestep: Any) -> int:
        """Return the number of the call's first step in the scheduler's schedule."""
        matches = torch.nonzero(self._scheduler.timesteps.cpu() == torch.as_tensor(timestep).cpu()).flatten()
        if not len(matches):
            raise OptionError(f"scheduler.step: timestep {timestep} is none of the steps that are set")
        return int(matches[0])

    def _state(
        self, call: NetworkCall, active: ActiveTerms, x: Tensor, output: Tensor, timestep: Any, noise_level: Level
    ) -> tuple[Tensor, StepState]:
        """Return ε without a graph, and the state that the terms read."""
        channels, clip = x.shape[1], clip_range(self._scheduler)
        labelled, null = call.parts(len(x))
        conditional = call.output[labelled, :channels].float()
        eps, eps_conditional = (self._eps(x, prediction, noise_level) for prediction in (output, conditional))
        own = (x / noise_level.scale).requires_grad_(active.graph)  # √ᾱ_t x_0 + √(1 − ᾱ_t) ε
        if active.graph:
            with torch.enable_grad():
                x = noise_level.scale * own
        graph_eps, graph_conditional, features = eps, eps_conditional, {}
        if active.graph or active.taps:
            with (
                torch.set_grad_enabled(active.graph),
                network_lock(self._prior.denoiser),
                tapped(self._prior.blocks, active.taps, cut=not active.through) as features,
            ):
                scaled = self._scheduler.scale_model_input(x, timestep)
                again = call.run(self._network, scaled, labelled, channels)
            if active.through:
                with torch.enable_grad(), network_lock(self._prior.denoiser):
                    guided = again
                    if null is not None:
                        unguided = call.run(self._network, scaled, null, channels)
                        scale = guidance_scale(conditional, call.output[null, :channels].float(), output)
                        guided = unguided + scale * (again - unguided)
                    graph_eps = self._eps(x, guided, noise_level)
                    graph_conditional = self._eps(x, again, noise_level)
        with torch.set_grad_enabled(active.through):
            x0 = estimated_x0(x, graph_eps, noise_level, clip)
            x0_conditional = x0 if null is None else estimated_x0(x, graph_conditional, noise_level, clip)
        assert self._step is not None
        return eps, StepState(
            self._step, len(self._scheduler.timesteps), int(timestep), noise_level.signal, noise_level.noise,
            ancestral_std(noise_level, None), own, graph_eps, x0, self._labels.to(x.device), features, x0_conditional,
        )  # fmt: skip

    def _eps(self, x: Tensor, prediction: Tensor, noise_level: Level) -> Tensor:
        """Return the noise estimate that belongs to a prediction of the network; of v, α v + σ x_t."""
        if not self._of_v:
            return prediction
        return (noise_level.alpha * prediction + noise_level.sigma * x / noise_level.scale) / noise_level.scale
