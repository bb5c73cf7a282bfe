"""DiffFit: fine-tuning a DiT by few of its numbers, which are then merged into a copy of its weights.

Xie et al., "DiffFit: Unlocking Transferability of Large Diffusion Models via Simple Parameter-Efficient Fine-Tuning",
ICCV 2023, https://arxiv.org/abs/2304.06648, in the form that Minimax Diffusion released
(https://github.com/vimar-gu/MinimaxDiffusion, models.py). Trained are all biases, the label table, layer norms that
have weights, and scales γ, which start at 1. In each of the first ⌊depth / 2⌋ blocks they multiply

    the queries, keys and values            γ_q ⊙ (W_q h + b_q), …
    the output of the attention, twice      γ_b ⊙ γ_o ⊙ (W_o a + b_o)
    the output of the feed-forward layer    γ_f ⊙ (W_f f + b_f)

so that γ ⊙ (W h + b) is a layer with the weights γ W and the bias γ b.

diffusers gives each block of a DiT an embedding of timestep and label of its own. A network that was converted from the
DiT repository has one there: the copies are equal in all blocks, and are trained as one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dap.errors import FormatError
from dap.priors.base import Prior
from dap.priors.dit import DiTPrior
from dap.priors.taps import network_lock

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

__all__ = ["DiffFit", "merged", "merged_bytes"]

SCALED = {
    "attn1.to_q": ("scale",), "attn1.to_k": ("scale",), "attn1.to_v": ("scale",),
    "attn1.to_out.0": ("scale", "branch_scale"), "ff.net.2": ("scale",),
}  # fmt: skip
EMBEDDING = "norm1.emb."  # of a block: timestep and label


class DiffFit:
    """A network to train: a copy of a DiT that shares its frozen weights.

    Args:
        denoiser: The network; it is not changed.

    Attributes:
        network: The copy.
        parameters: What is trained, by name, float32. The gradient of a loss of ``network`` reaches them.
    """

    def __init__(self, denoiser: DiTTransformer2DModel) -> None:
        names = _trained(denoiser)
        self.network = _sharing(denoiser, names)
        self.parameters: dict[str, Tensor] = {}
        for name, places in names.items():
            parameter = nn.Parameter(self.network.get_parameter(name).detach().float())
            self.parameters[name] = parameter
            for place in places:
                path, _, attribute = place.rpartition(".")
                setattr(self.network.get_submodule(path), attribute, parameter)
        for path, scales in _scaled(denoiser).items():
            layer = self.network.get_submodule(path)
            own = [nn.Parameter(torch.ones(layer.out_features, device=layer.weight.device)) for _ in scales]
            self.parameters |= dict(zip(scales, own, strict=True))
            layer.register_forward_hook(_multiplied_by(own))  # the network is this object's own


def merged(denoiser: DiTTransformer2DModel, values: Mapping[str, Tensor]) -> DiTTransformer2DModel:
    """Return a copy of a network with values of :attr:`DiffFit.parameters`; it shares all weights that are not changed.

    Args:
        denoiser: The network; it is not changed.
        values: By name, of any floating dtype.

    Raises:
        FormatError: The names or shapes are not those of this network.
    """
    names, scaled = _trained(denoiser), _scaled(denoiser)
    expected = {name: denoiser.get_parameter(name).shape for name in names}
    for path, scales in scaled.items():
        expected |= {scale: torch.Size([denoiser.get_submodule(path).out_features]) for scale in scales}
    if wrong := [name for name in expected.keys() | values.keys() if _shape(values, name) != expected.get(name)]:
        name = min(wrong)
        raise FormatError(f"{name}: expected the shape {expected.get(name)}, got {_shape(values, name)}")
    weights = {f"{path}.weight": [f"{path}.weight"] for path in scaled}
    network = _sharing(denoiser, names | weights)
    with torch.no_grad():
        for name, places in names.items():
            for place in places:
                network.get_parameter(place).copy_(values[name])
        for path, scales in scaled.items():
            layer = network.get_submodule(path)
            scale = reduce(torch.mul, [values[scale].to(layer.weight.device, torch.float32) for scale in scales])
            layer.weight.copy_(scale[:, None] * layer.weight.float())
            if layer.bias is not None:
                layer.bias.copy_(scale * values[f"{path}.bias"].to(scale))
    return network


def merged_bytes(prior: Prior) -> int:
    """Return the memory of the weights that :func:`merged` does not share; 0 for a prior that is no DiT."""
    if not isinstance(prior, DiTPrior):
        return 0
    own = [prior.denoiser.get_parameter(f"{path}.weight") for path in _scaled(prior.denoiser)]
    own += [prior.denoiser.get_parameter(place) for places in _trained(prior.denoiser).values() for place in places]
    return sum(parameter.numel() * parameter.element_size() for parameter in own)


def _trained(denoiser: DiTTransformer2DModel) -> dict[str, list[str]]:
    """Return the names of the parameters that are trained, each with the names of all that are trained as one."""
    names = []
    for path, module in denoiser.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        whole = isinstance(module, nn.LayerNorm | nn.Embedding)
        names += [name for name in own if whole or name.endswith(".bias")]
    blocks = [f"transformer_blocks.{number}." for number in range(len(denoiser.transformer_blocks))]
    first = blocks[0] + EMBEDDING
    shared = {name.removeprefix(first): value for name, value in denoiser.named_parameters() if name.startswith(first)}
    if not all(
        torch.equal(denoiser.get_parameter(block + EMBEDDING + name), value)
        for block in blocks
        for name, value in shared.items()
    ):
        return {name: [name] for name in names}
    tied = {name: [block + name.removeprefix(blocks[0]) for block in blocks] for name in names if first in name}
    return {name: tied.get(name, [name]) for name in names if EMBEDDING not in name or name in tied}


def _scaled(denoiser: DiTTransformer2DModel) -> dict[str, list[str]]:
    """Return the names of the scales of each layer that has some."""
    blocks = [f"transformer_blocks.{number}" for number in range(len(denoiser.transformer_blocks) // 2)]
    return {
        f"{block}.{layer}": [f"{block}.{layer}.{name}" for name in names]
        for block in blocks
        for layer, names in SCALED.items()
    }


def _sharing(denoiser: DiTTransformer2DModel, but: Mapping[str, list[str]]) -> DiTTransformer2DModel:
    """Return a copy of a network that shares all tensors but these parameters, without hooks of other threads."""
    own = {place for places in but.values() for place in places}
    shared = [parameter for name, parameter in denoiser.named_parameters() if name not in own]
    with network_lock(denoiser):
        return copy.deepcopy(denoiser, {id(tensor): tensor for tensor in (*shared, *denoiser.buffers())})


def _multiplied_by(scales: Sequence[Tensor]) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def hook(layer: nn.Module, given: object, output: Tensor) -> Tensor:
        return reduce(torch.mul, scales, output)

    return hook


def _shape(values: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return values[name].shape if name in values else None
