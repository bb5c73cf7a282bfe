"""Four networks trained side by side by ``torch.vmap``, beside one after the other: seconds of a step of all four.

    python benches/side_by_side.py

A step is a forward and a backward pass of 64 grey images of 28 pixels, on the CPU with one thread. Losses and gradients
of both are checked equal. The contenders take turns, forwards and backwards; the table gives medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from machine import describe_machine
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional

from dap import rng
from dap.nets import create_net

NETWORKS = (("convnet3", 32), ("convnet3", 128), ("small_vit", None), ("small_mlp", None))
SETS, IMAGES, SIDE, TURNS = 4, 64, 28, 9

Gradients = dict[str, Tensor]


def contenders(name: str, width: int | None) -> dict[str, Callable[[], tuple[Tensor, Gradients]]]:
    """Return functions that give the losses of all networks, and their gradients by parameter."""
    nets: list[nn.Module] = [
        create_net(name, width=width, channels=1, classes=10, size=SIDE, generator=rng.generator(number))
        for number in range(SETS)
    ]
    images = torch.randn(SETS, IMAGES, 1, SIDE, SIDE, generator=rng.generator("images"))
    labels = torch.arange(IMAGES).remainder(10).expand(SETS, -1)
    parameters, buffers = stack_module_state(nets)

    def loss(weights: Gradients, state: Gradients, batch: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(nets[0], (weights, state), (batch,)), targets)

    def in_turn() -> tuple[Tensor, Gradients]:
        losses, gradients = [], []
        for net, batch, targets in zip(nets, images, labels, strict=True):
            losses.append(functional.cross_entropy(net(batch), targets))
            gradients.append(torch.autograd.grad(losses[-1], list(net.parameters())))
        names = [parameter for parameter, _ in nets[0].named_parameters()]
        stacked = map(torch.stack, zip(*gradients, strict=True))
        return torch.stack(losses), dict(zip(names, stacked, strict=True))

    def at_once() -> tuple[Tensor, Gradients]:
        gradients, losses = vmap(grad_and_value(loss))(parameters, buffers, images, labels)
        return losses, gradients

    return {"one after the other": in_turn, "vmap": at_once}


def main() -> None:
    torch.set_num_threads(1)
    print(describe_machine())
    print("| network | one after the other | vmap | vmap ÷ one after the other |\n|---|---|---|---|")
    for name, width in NETWORKS:
        functions = contenders(name, width)
        (losses, gradients), (others, other_gradients) = (run() for run in functions.values())
        torch.testing.assert_close(losses, others, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradients, other_gradients, rtol=1e-2, atol=1e-3)
        seconds: dict[str, list[float]] = {kind: [] for kind in functions}
        for turn in range(TURNS):
            for kind in [*functions][:: 1 if turn % 2 else -1]:
                start = time.perf_counter()
                functions[kind]()
                seconds[kind].append(time.perf_counter() - start)
        first, second = (statistics.median(values) for values in seconds.values())
        title = name if width is None else f"{name}, width {width}"
        print(f"| `{title}` | {first:.3f} | {second:.3f} | {second / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
