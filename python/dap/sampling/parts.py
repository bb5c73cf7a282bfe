"""One evaluation of the denoiser for more slots than fit the memory at once.

The slots are divided into parts of at most ``pass_size``. Without a graph each part is evaluated and its estimate kept.
With a graph a part keeps none: the backward pass evaluates it again, one part at a time (gradient checkpointing), so
that an energy of all slots has its exact gradient while the memory holds the graph of one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from dap.priors import Prediction

if TYPE_CHECKING:
    from torch import Tensor

    from dap.priors import Prior

__all__ = ["denoise_in_parts"]


def denoise_in_parts(
    prior: Prior,
    sample: Tensor,
    timestep: Tensor,
    labels: Tensor,
    *,
    pass_size: int | None,
    condition: Tensor | None = None,
    **options: Any,
) -> Prediction:
    """Evaluate the denoiser once for each slot.

    Args:
        prior: The prior.
        sample: x_t, (B, C, h, w).
        timestep: One for all slots, or one for each.
        labels: int64 (B,).
        pass_size: The most slots in one pass; None: all.
        condition: One row for each slot, (B, …); None: that of the labels.
        options: The other options of :meth:`dap.priors.Prior.denoise`.
    """

    def evaluate(sample: Tensor, timestep: Tensor, labels: Tensor, condition: Tensor | None) -> Prediction:
        given = options if condition is None else {**options, "condition": condition}
        return prior.denoise(sample, timestep, labels, **given)

    if pass_size is None or len(sample) <= pass_size:
        return evaluate(sample, timestep, labels, condition)
    taps = options.get("taps", ())
    graph = torch.is_grad_enabled() and bool(options.get("through") or taps)
    count = -(-len(sample) // pass_size)
    times = timestep.split(pass_size) if timestep.dim() else (timestep,) * count
    parts = [
        checkpoint(evaluate, *part, use_reentrant=False, preserve_rng_state=False) if graph else evaluate(*part)
        for part in zip(
            sample.split(pass_size),
            times,
            labels.split(pass_size),
            _split(condition, len(sample), pass_size),
            strict=True,
        )
    ]
    return Prediction(
        torch.cat([part.eps for part in parts]),
        _joined([part.variance for part in parts]),
        {tap: torch.cat([part.features[tap] for part in parts]) for tap in taps},
        _joined([part.conditional for part in parts]),
        _joined([part.x0 for part in parts]),
        _joined([part.x0_conditional for part in parts]),
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return the parts of a tensor put together; None if there are none."""
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None


def _split(condition: Tensor | None, slots: int, pass_size: int) -> tuple[Tensor | None, ...]:
    """Return the condition of each part; None of each if there is none."""
    return (None,) * -(-slots // pass_size) if condition is None else condition.split(pass_size)
