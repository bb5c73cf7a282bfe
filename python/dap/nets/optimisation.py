"""A resumable training loop for priors, embeddings and low-rank adapters.

AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019) with gradients clipped to norm 1; the
learning rate warms up, stays, and falls linearly over the second half. Each step has a generator of its own, so that a
resumed training gives the same bytes as one without interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dap import rng
from dap.bar import NO_BARS, Bars
from dap.errors import DivergedError, FormatError
from dap.storage.files import write_atomic

__all__ = ["Trained", "learning_rate", "optimise", "steps_done"]

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The names of the moments in AdamW's state."""

SAVE_SECONDS = 60.0
"""Seconds between two checkpoints."""

HISTORY = 100
"""Steps whose mean loss is one entry of :attr:`Trained.losses`."""


@dataclass(frozen=True)
class Trained:
    """The result of :func:`optimise`.

    Attributes:
        average: The moving average of each parameter; empty if ``average`` was None.
        losses: The mean loss of each 100 steps.
        seconds: The time of all steps, in this process and earlier ones.
    """

    average: Mapping[str, Tensor]
    losses: list[float]
    seconds: float


def learning_rate(step: int, steps: int, warm_up: int) -> float:
    """Return the learning rate of a step, counted from 0, as a share of the peak.

    Example:
        >>> [learning_rate(step, 8, 2) for step in (0, 1, 4, 7)]
        [0.5, 1.0, 1.0, 0.25]
    """
    return min(1.0, (step + 1) / max(warm_up, 1), 2 * (steps - step) / steps)


def steps_done(checkpoint: Path) -> int:
    """Return the number of steps that a checkpoint of :func:`optimise` has; 0 if it does not exist.

    Raises:
        FormatError: It is damaged.
    """
    if not checkpoint.is_file():
        return 0
    try:
        with safe_open(checkpoint, framework="pt") as file:
            return int(file.metadata()["step"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{checkpoint}: damaged ({error}); delete it to train from the start") from error


def optimise(
    parameters: Mapping[str, Tensor],
    loss: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    peak_lr: float,
    seed: tuple[int | str, ...],
    checkpoint: Path,
    warm_up: int = 0,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    average: float | None = None,
    title: str = "training",
    bars: Bars = NO_BARS,
    leave: bool = True,
) -> Trained:
    """Train parameters in place, resuming from the checkpoint if it exists; it is written every minute and at the end.

    Args:
        parameters: Leaf tensors by name, float32.
        loss: The scalar loss of one step; it draws from the CPU generator that it is given.
        steps: Number of steps.
        peak_lr: The largest learning rate.
        seed: The name of the training; with the step's number it seeds the step's generator.
        checkpoint: The path of a safetensors file in an existing folder.
        warm_up: Number of steps in which the learning rate rises.
        betas: The betas of AdamW.
        weight_decay: The decoupled weight decay of AdamW.
        average: Decay of the moving average of the parameters, in [0, 1), lower in the first steps; None for none.
        title: The title of the progress bar.
        bars: Opens the progress bar.
        leave: Whether the bar stays on the screen.

    Raises:
        FormatError: The checkpoint is damaged, or of other parameters.
        DivergedError: A loss is not finite.
    """
    optimizer = torch.optim.AdamW(parameters.values(), lr=peak_lr, betas=betas, weight_decay=weight_decay)
    means = {} if average is None else {name: parameter.detach().clone() for name, parameter in parameters.items()}
    done, before, history = 0, 0.0, torch.zeros(0)
    if checkpoint.is_file():
        saved_tensors, notes = _read(checkpoint, list(parameters), averaged=average is not None)
        done, before, history = int(notes["step"]), float(notes["seconds"]), saved_tensors["history"]
        for name, parameter in parameters.items():
            parameter.data.copy_(saved_tensors[f"parameter {name}"])
            moments = {key: saved_tensors[f"{key} {name}"].to(parameter) for key in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(done)), **moments}
        for name, mean in means.items():
            mean.copy_(saved_tensors[f"average {name}"])

    start = saved = time.monotonic()

    def save_all() -> None:
        tensors = {"history": history} | {f"average {name}": mean for name, mean in means.items()}
        for name, parameter in parameters.items():
            moments = optimizer.state[parameter]
            tensors |= {f"parameter {name}": parameter.detach()} | {f"{key} {name}": moments[key] for key in MOMENTS}
        notes = {"step": str(done), "seconds": f"{before + time.monotonic() - start:.1f}"}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_atomic(checkpoint, save(tensors, metadata=notes))

    kept = f"{title}: the steps up to a minute ago are kept; the same command continues after them"
    with bars.stage(title, total=steps, done=done, unit="step", kept=kept, leave=leave) as bar:
        while done < steps:
            value = loss(rng.generator(*seed, done))
            if not torch.isfinite(value):
                raise DivergedError(f"{title}: the loss of step {done} is not finite; lower the learning rate")
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * learning_rate(done, steps, warm_up)
            optimizer.step()
            history = torch.cat([history, value.detach().cpu()[None]])
            done += 1
            if average is not None:
                decay = min(average, (1 + done) / (10 + done))
                current = [parameter.detach() for parameter in parameters.values()]
                torch._foreach_lerp_(list(means.values()), current, 1 - decay)
            bar.update()
            if time.monotonic() - saved > SAVE_SECONDS or done == steps:
                save_all()
                saved = time.monotonic()
                bar.set_postfix(loss=f"{history[-HISTORY:].mean():.4f}", refresh=False)
    losses = [float(part.mean()) for part in history.split(HISTORY)] if len(history) else []
    return Trained(means, losses, before + time.monotonic() - start)


def _read(checkpoint: Path, names: Sequence[str], *, averaged: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    kinds = ("parameter", *MOMENTS, *(("average",) if averaged else ()))
    try:
        with safe_open(checkpoint, framework="pt") as file:
            tensors, notes = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"{checkpoint}: damaged ({error}); delete it to train from the start") from error
    if tensors.keys() != {"history", *(f"{kind} {name}" for kind in kinds for name in names)}:
        raise FormatError(f"{checkpoint}: not a checkpoint of this training; delete it to train from the start")
    return tensors, notes
