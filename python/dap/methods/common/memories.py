"""The losses of Minimax Diffusion: representativeness and diversity of estimates, by two memories of each class.

The formula and its source are in :mod:`dap.methods.minimax`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dap.methods.common.fine_tuning import BatchLoss, State

__all__ = ["Memories"]


class Memories(BatchLoss):
    """The loss of representativeness and diversity, with the memories of each class.

    Args:
        representativeness: λ_r.
        diversity: λ_d.
        size: Latents in a memory.
    """

    def __init__(self, representativeness: float, diversity: float, size: int) -> None:
        self._weights, self._size = (representativeness, diversity), size
        self._real: dict[int, Tensor] = {}
        self._made: dict[int, Tensor] = {}

    def __call__(self, estimates: Tensor, latents: Tensor, classes: Tensor) -> Tensor:
        """See :meth:`dap.methods.common.fine_tuning.BatchLoss.__call__`."""
        real, made = latents.flatten(1), estimates.flatten(1)
        present, loss = classes.unique().tolist(), estimates.new_zeros(())
        for number in present:
            own = torch.nonzero(classes == number).flatten().to(estimates.device)
            if number in self._made:
                least = _cosines(made[own], self._real[number].to(made)).min()
                largest = _cosines(made[own], self._made[number].to(made)).max()
                loss = loss + (self._weights[0] * (1 - least) + self._weights[1] * largest) / len(present)
            for memory, values in ((self._real, real), (self._made, made)):
                before = memory.get(number, values.new_zeros(0, values.shape[1])).to(values)
                memory[number] = torch.cat([before, values[own].detach()])[-self._size :]
        return loss

    def state(self) -> State:
        """See :meth:`dap.methods.common.fine_tuning.BatchLoss.state`."""
        return {"real": self._real, "made": self._made}

    def restore(self, state: State) -> None:
        """See :meth:`dap.methods.common.fine_tuning.BatchLoss.restore`."""
        self._real, self._made = dict(state["real"]), dict(state["made"])


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T
