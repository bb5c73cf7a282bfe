"""Floating-point operations of a prior's networks, counted on torch's meta device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dap.priors import Demand, Prior
from dap.priors.memory import rehearse
from dap.priors.pipeline import PipelinePrior

__all__ = ["SlotOperations", "operations_of"]

logger = logging.getLogger(__name__)


class SlotOperations(tuple[int, int, int]):
    """Operations for one slot: of a step without guidance, of one in which the method guides, and of decoding it."""

    __slots__ = ()

    def of(self, plain: int, guided: int, images: int) -> int:
        """Return the operations of numbers of steps without guidance and with it, and of decoding some images."""
        return self[0] * plain + self[1] * guided + self[2] * images


def operations_of(prior: Prior, demands: Sequence[Demand], guidance_scale: float) -> SlotOperations | None:
    """Return the operations for one slot; None if they cannot be counted without the networks' values.

    Args:
        prior: The prior; its networks are not run.
        demands: What the stages of a guided step need of it.
        guidance_scale: The scale of classifier-free guidance.
    """
    if not isinstance(prior, PipelinePrior):
        return None
    try:
        meta = prior.without_data()
        plain = _counted(lambda: rehearse(meta, Demand(), guidance_scale, 1))
        guided = sum(_step(meta, demand, guidance_scale) for demand in demands)
        latents = torch.empty(1, *prior.latent_shape, device="meta")
        return SlotOperations((plain, guided, _counted(lambda: meta.decode_with_graph(latents))))
    except Exception as error:  # layers of other packages need not work on the meta device
        logger.info("%s: its operations cannot be counted (%s)", prior.name, error)
        return None


def _step(meta: PipelinePrior, demand: Demand, guidance_scale: float) -> int:
    count = 0
    if demand.denoiser or demand.taps or not demand.decoder:
        count += _counted(lambda: rehearse(meta, demand, guidance_scale, 1))
    if demand.decoder:
        latents = torch.empty(1, *meta.latent_shape, device="meta", requires_grad=True)
        count += _counted(lambda: torch.autograd.grad(meta.decode_with_graph(latents).sum(), latents))
    return count


class _Operations(TorchDispatchMode):
    """Counts by torch's formulas. torch's FlopCounterMode follows modules too, and refuses gradients of a leaf."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _counted(compute: Callable[[], object]) -> int:
    with _Operations() as counter:
        compute()
    total: int = counter.total
    return total
