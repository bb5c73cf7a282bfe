"""The memory that a step of sampling takes, measured before the run and without any memory.

The networks run once on torch's meta device, whose tensors have shapes and no values, while the bytes of all tensors
that are alive are counted: with a graph, those that autograd keeps. One slot and two slots give a fixed part and a part
for each slot. Attention is counted as torch's fused kernels compute it, which keep no matrix of all pairs of tokens.

The result depends on the networks, their data type and torch's version, never on the device. Where a network has layers
that do not run on the meta device, a slot is planned with the prior's ``slot_bytes``.
"""

from __future__ import annotations

import copy
import json
import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dap.priors.demand import Demand, StepBytes

if TYPE_CHECKING:
    from dap.priors.pipeline import PipelinePrior

__all__ = ["FusedAttention", "LiveBytes", "measure_step", "peak_bytes", "rehearse", "tensor_bytes", "without_data"]

logger = logging.getLogger(__name__)


class LiveBytes(TorchDispatchMode):
    """A context that counts the bytes of the tensors which operations make inside it.

    Attributes:
        live: Bytes of those that are alive.
        peak: The most that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages of its results that are new; those of its inputs were there."""
        self._note((args, kwargs), counted=False)
        result = func(*args, **(kwargs or {}))
        self._note(result, counted=True)
        return result

    def _note(self, values: object, *, counted: bool) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in self._storages:
                self._add(value.untyped_storage(), counted)

    def _add(self, storage: torch.UntypedStorage, counted: bool) -> None:
        key, size = storage._cdata, storage.nbytes() if counted else 0

        def gone(_: object) -> None:
            self.live -= size
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


class _Attention(torch.autograd.Function):
    """Attention on the meta device as a fused kernel computes it: it keeps q, k, v, its output and a number per row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return a tensor of the output's shape."""
        *batch, heads, tokens, _ = query.shape
        output = query.new_empty(*batch, tokens, heads, value.shape[-1]).transpose(-2, -3)
        ctx.save_for_backward(query, key, value, output, query.new_empty(*batch, heads, tokens, dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return gradients of q, k and v."""
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


class FusedAttention(TorchFunctionMode):
    """A context in which attention on the meta device is that of a fused kernel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, or :class:`_Attention` in place of attention on the meta device."""
        if func is functional.scaled_dot_product_attention and args and args[0].is_meta:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def peak_bytes(compute: Callable[[], object]) -> int:
    """Return the most bytes of tensors that are alive at once while a function runs."""
    with LiveBytes() as counter, FusedAttention():
        compute()
    peak: int = counter.peak
    return peak


def tensor_bytes(module: nn.Module | None) -> int:
    """Return the bytes of a module's parameters and buffers."""
    tensors = () if module is None else (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def without_data(module: nn.Module) -> nn.Module:
    """Return a copy of a module on the meta device; nothing of the module's tensors is copied."""
    copies: dict[int, object] = {}
    for parameter in module.parameters():
        copies[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in module.buffers():
        copies[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, copies)


_measured: dict[tuple[object, ...], StepBytes] = {}


def measure_step(prior: PipelinePrior, demand: Demand, guidance_scale: float) -> StepBytes:
    """Return the memory of one evaluation of the denoiser, with the graph that is demanded and its backward pass.

    Args:
        prior: The prior; its networks are not run.
        demand: What is needed beside the noise estimate.
        guidance_scale: The scale of classifier-free guidance; 1: without the second pass.
    """
    image = prior.image_bytes
    passes = 2 if guidance_scale != 1 else 1
    config = json.dumps(dict(prior.denoiser.config), sort_keys=True, default=str)
    key = (type(prior.denoiser), config, prior.dtype, prior.latent_shape, passes, demand.taps, demand.denoiser)
    if key not in _measured:
        try:
            meta = prior.without_data()
            one, two = (peak_bytes(partial(rehearse, meta, demand, guidance_scale, slots)) for slots in (1, 2))
        except Exception as error:  # layers of other packages need not work on the meta device
            logger.info("%s: the memory of a slot cannot be measured (%s)", prior.name, error)
            one, two = prior.slot_bytes, 2 * prior.slot_bytes
        slot = max(1, two - one)
        _measured[key] = StepBytes(max(0, one - slot), slot)
    step = _measured[key]
    pixels = 4 * prior.image_shape[0] * prior.image_shape[1] * prior.image_shape[2]
    return StepBytes(
        step.fixed + demand.fixed, step.slot + demand.own + 4 * pixels * demand.decoder,
        image.decode_graph * demand.decoder, prior.batches.decode_graph,
    )  # fmt: skip


def rehearse(meta: PipelinePrior, demand: Demand, guidance_scale: float, slots: int) -> None:
    """Run one evaluation of the denoiser on the meta device, with the graph that is demanded and its backward pass.

    Args:
        meta: What ``without_data`` of a prior returns.
        demand: What is needed beside the noise estimate; the decoder is not run.
        guidance_scale: The scale of classifier-free guidance.
        slots: The number of slots.
    """
    graph = demand.denoiser or bool(demand.taps)
    sample = torch.empty(slots, *meta.latent_shape, device="meta", requires_grad=graph)
    timestep, labels = (torch.zeros(size, dtype=torch.int64, device="meta") for size in ((), (slots,)))
    with torch.set_grad_enabled(graph):
        prediction = meta.denoise(
            sample, timestep, labels, guidance_scale=guidance_scale, taps=demand.taps, through=demand.denoiser
        )
        outputs = [tokens.float().sum() for tokens in prediction.features.values()]
        if demand.denoiser:
            outputs.append(prediction.eps.sum())
        if graph:
            torch.autograd.grad(torch.stack(outputs).sum(), sample)
