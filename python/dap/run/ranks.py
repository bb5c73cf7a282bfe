"""Which of several processes this one is, as torchrun or SLURM say in the environment; they share only a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import torch

from dap.errors import OptionError

__all__ = ["Rank", "own_device", "own_rank"]


class Rank(NamedTuple):
    """The place of a process among those that were started together.

    Attributes:
        number: From 0 to below ``world``.
        local: The same among those on this machine.
        world: How many there are.
    """

    number: int
    local: int
    world: int


def own_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return the rank that torchrun, ``srun`` or a SLURM array gave to this process; the only one without them.

    Args:
        environment: The variables, by name.

    Raises:
        OptionError: A variable is not a whole number, or the rank is none of so many.

    Example:
        >>> own_rank({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"})
        Rank(number=5, local=1, world=8)
        >>> own_rank({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "64"})
        Rank(number=2, local=0, world=64)
        >>> own_rank({})
        Rank(number=0, local=0, world=1)
    """

    def value(name: str, default: int) -> int:
        text = environment.get(name, "").strip()
        if text and not text.isdecimal():
            raise OptionError(f"{name}: expected a whole number in the environment, got {text!r}")
        return int(text) if text else default

    if environment.get("RANK"):
        number, local, world = value("RANK", 0), value("LOCAL_RANK", 0), value("WORLD_SIZE", 1)
        if number >= world:
            raise OptionError(f"RANK: expected a number below WORLD_SIZE={world}, got {number}")
        return Rank(number, local, world)
    task = value("SLURM_PROCID", 0)
    tasks = max(value("SLURM_NTASKS", 1), task + 1)
    first, count = value("SLURM_ARRAY_TASK_MIN", 0), value("SLURM_ARRAY_TASK_COUNT", 1)
    job = value("SLURM_ARRAY_TASK_ID", first) - first
    return Rank(job * tasks + task, value("SLURM_LOCALID", 0), max(count, job + 1) * tasks)


def own_device(device: str | torch.device | None, rank: Rank) -> str | torch.device | None:
    """Return the device of a rank: a GPU of its own where this process sees several, unless one is named.

    Args:
        device: What the user asks for.
        rank: That of this process.
    """
    if rank.world == 1 or str(device) not in ("None", "cuda") or torch.cuda.device_count() < 2:
        return device
    return f"cuda:{rank.local % torch.cuda.device_count()}"
