"""Fine-tunes a DiT by DiffFit on real latents; a training that was stopped is continued to the same bytes on a CPU.

It is that of the DiT repository and of Minimax Diffusion (https://github.com/vimar-gu/MinimaxDiffusion, train_dit.py):
AdamW with a constant rate, without weight decay or clipping, on

    ‖ε − ε_θ(x_t, t, c)‖² / D  +  the bound of the variance  +  a loss of the method,

the bound (:mod:`dap.sampling.learned_variance`) where the network predicts a variance, t uniform over all timesteps, a
tenth of the labels replaced by the null condition. The result is the moving average of what is trained.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from dap import rng
from dap.bar import Bars
from dap.data.classmap import null_label
from dap.errors import DivergedError, StoppedError
from dap.nets.optimisation import SAVE_SECONDS
from dap.nets.train_state import read_state, write_state
from dap.priors import Demand, Prior
from dap.priors.diff_fit import DiffFit
from dap.priors.dit import DiTPrior
from dap.priors.noise_levels import denoiser_level
from dap.sampling import draw_noised, noised_latents
from dap.sampling.learned_variance import variance_bound
from dap.seams import Seam
from dap.stopping import check_stop
from dap.storage.cache_folder import writing

__all__ = ["BatchLoss", "Examples", "FineTuning", "State", "fine_tune", "training_bytes"]

NULL_SHARE = 0.1

State: TypeAlias = Mapping[str, Mapping[int, Tensor]]
"""What a loss remembers: tensors by the number of the class, by name."""


class Examples(NamedTuple):
    """What a network is fine-tuned on.

    Attributes:
        latents: x_0, float32 (N, C, h, w) on the CPU.
        classes: The number of the class of each, int64 (N,).
        labels: The prior's label of each, int64 (N,).
    """

    latents: Tensor
    classes: Tensor
    labels: Tensor


class FineTuning(NamedTuple):
    """How a network is fine-tuned.

    Attributes:
        steps: Number of steps.
        batch: Latents in a step.
        learning_rate: The rate of AdamW.
        average: The decay of the moving average, in [0, 1).
    """

    steps: int
    batch: int
    learning_rate: float
    average: float


class BatchLoss(Seam):
    """A method's own loss of a batch, which may remember earlier batches."""

    seam = "loss"

    @abstractmethod
    def __call__(self, estimates: Tensor, latents: Tensor, classes: Tensor) -> Tensor:
        """Return the loss, a scalar with the graph to the estimates of x_0; and remember the batch.

        Args:
            estimates: x̂_0, float32 (B, C, h, w).
            latents: x_0, of the same shape, on the same device.
            classes: The number of the class of each, int64 (B,) on the CPU.
        """

    @abstractmethod
    def state(self) -> State:
        """Return what it remembers."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Remember what :meth:`state` returned."""


def fine_tune(
    prior: DiTPrior,
    examples: Callable[[], Examples],
    own_loss: BatchLoss,
    how: FineTuning,
    *,
    seed: tuple[int | str, ...],
    checkpoint: Path,
    title: str,
    bars: Bars,
) -> dict[str, Tensor]:
    """Return the moving average of the values of :class:`dap.priors.diff_fit.DiffFit`, float32, by name.

    Args:
        prior: The prior; it is not changed.
        examples: Returns what it is fine-tuned on; an epoch leaves out what does not fill a batch.
        own_loss: The method's own loss.
        how: The options.
        seed: The name of the training.
        checkpoint: The file of the training's state, which is continued if it is there; its folder is made.
        title: The title of the progress bar.
        bars: Opens the progress bar.

    Raises:
        DivergedError: The loss, or what was trained, is not finite.
        OptionError: The folder of ``checkpoint`` cannot be written.
        StoppedError: The run is to end; the state is written.
    """
    with writing():
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    fit = DiffFit(prior.denoiser)
    network = prior.with_denoiser(fit.network, name=prior.name)  # which freezes it
    if prior.predicts_variance:
        network = network.with_sampling(learned_variance=True)
    parameters = {name: parameter.requires_grad_() for name, parameter in fit.parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=how.learning_rate, weight_decay=0)
    means = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    state = read_state(checkpoint)
    done = 0 if state is None else int(state["step"])
    if state is not None:
        for name, parameter in parameters.items():
            means[name].copy_(state["average"][name])
            parameter.data.copy_(state["parameters"][name])
        optimizer.load_state_dict(state["optimizer"])
        own_loss.restore(state["own"])

    def save() -> None:
        values = {name: parameter.detach() for name, parameter in parameters.items()}
        if not all(torch.isfinite(value).all() for value in values.values()):
            raise _diverged(title, f"after step {done} a value is not finite")
        with writing():
            checkpoint.parent.mkdir(parents=True, exist_ok=True)  # somebody may have deleted the cache
            write_state(checkpoint, {
                "step": done, "average": means, "parameters": values, "optimizer": optimizer.state_dict(),
                "own": own_loss.state(),
            })  # fmt: skip

    given, saved = examples(), time.monotonic()
    epoch = len(given.latents) // how.batch
    kept = f"{title}: the steps up to a minute ago are kept; the same command continues after them"
    with bars.stage(title, total=how.steps, done=done, unit="step", kept=kept, leave=False) as bar:
        while done < how.steps:
            number, place = divmod(done, epoch)
            order = torch.randperm(len(given.latents), generator=rng.generator(*seed, "epoch", number))
            chosen = order[place * how.batch : (place + 1) * how.batch]
            with torch.enable_grad():
                loss = _loss(network, given, chosen, own_loss, rng.generator(*seed, done))
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            if not torch.isfinite(loss):
                raise _diverged(title, f"the loss of step {done} is not finite")
            for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            current = [parameter.detach() for parameter in parameters.values()]
            torch._foreach_lerp_(list(means.values()), current, 1 - how.average)
            done += 1
            bar.update()
            if time.monotonic() - saved > SAVE_SECONDS or done == how.steps:
                save()
                saved = time.monotonic()
            try:
                check_stop(checkpoint)
            except StoppedError:
                save()
                raise
    return {name: mean.cpu() for name, mean in means.items()}


def _diverged(title: str, what: str) -> DivergedError:
    return DivergedError(f"{title}: {what}; lower learning_rate")


def _loss(network: DiTPrior, examples: Examples, chosen: Tensor, own_loss: BatchLoss, draw: torch.Generator) -> Tensor:
    """Return the loss of a step on some examples."""
    device, dtype = network.device, network.dtype
    noise, timesteps = draw_noised(len(chosen), network, draw)
    dropped = torch.rand(len(chosen), generator=draw) < NULL_SHARE
    labels = torch.where(dropped, null_label(""), examples.labels[chosen])
    latents, noise, times = examples.latents[chosen].to(device), noise.to(device), timesteps.to(device)
    noised = noised_latents(network, latents, noise, times)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):  # what is trained is in float32
        prediction = network.denoise(noised, times, labels.to(device), through=True)
    schedule = network.noise_schedule()
    estimates = prediction.x0
    if estimates is None:
        alpha, sigma = (level.view(-1, 1, 1, 1) for level in denoiser_level(schedule, times))
        estimates = (noised - sigma * prediction.eps) / alpha
    loss = (noise - prediction.eps).square().mean()
    if prediction.variance is not None:
        bound = variance_bound(schedule.alphas_cumprod, latents, noised, times, prediction.eps, prediction.variance)
        loss = loss + bound.mean()
    return loss + own_loss(estimates, latents, examples.classes[chosen])


def training_bytes(prior: Prior, batch: int) -> int:
    """Return the memory of a step of the training beside the weights; 0 for a prior that cannot be trained.

    A step keeps more than the graph to x_t does: the six outputs that have scales, and four tensors in each block by
    which the modulations and gates are differentiated.
    """
    if not isinstance(prior, DiTPrior):
        return 0
    config = prior.denoiser.config
    tokens, width = prior.tokens, config.num_attention_heads * config.attention_head_dim
    own = 7 * len(prior.block_names) * tokens * width * prior.dtype.itemsize
    trained = sum(parameter.numel() for parameter in DiffFit(prior.denoiser).parameters.values())
    moments = 5 * 4 * trained  # values, gradients, two moments, average
    return prior.step_bytes(Demand(denoiser=True, own=own), guidance_scale=1.0).of(batch) + moments
