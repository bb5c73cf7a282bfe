"""Workers on a Ray cluster: each actor is one more process that works on the folder of a run.

Ray places the actors, adds machines where it may, and starts an actor again that died. Who makes which unit is decided
in the folder, as for any other workers: what a dead actor had claimed is made by another. An actor's work ends when the
run is complete, so that the first one to end is the end of all: some may never have found a place in the cluster.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dap.data.records import Records
from dap.errors import DapError, OptionError, StorageError
from dap.run.ranks import Rank
from dap.short_memory import is_short_memory
from dap.stopping import check_stop
from dap.storage.files import SHARED

__all__ = ["ray_actors"]

RESTARTS = 3  # of an actor that died; one that dies more often is given up
PAUSE, SAY = 1.0, 30.0  # seconds between two looks at the actors, and between two lines about the run

logger = logging.getLogger(__name__)


def ray_actors(count: int | None, address: str | None, out: Path, work: Callable[..., object], *given: object) -> int:
    """Do the same work in actors until one has ended; then end the others. Return how many there were.

    Args:
        count: How many actors; None: one for each GPU of the cluster, or for each of its machines if it has no GPU.
        address: Of the cluster, such as "auto"; None: one of this machine, which ends with the call. Where Ray is
            initialised already, that cluster is taken.
        out: The folder of the run, at the same path on all machines.
        work: A function of a module, which gets the :class:`Rank` of its actor before the arguments; it
            ends when all of the work is done.
        *given: Its arguments, which have to pickle.

    Raises:
        OptionError: Ray is not installed, or an argument does not pickle.
        StorageError: The cluster cannot be reached, or all actors were lost for good.
        DapError: What the work raises.
    """
    try:
        import ray
    except ImportError as error:
        raise OptionError("executor 'ray' needs Ray: pip install 'dap-distill[ray]'") from error
    begun = not ray.is_initialized()
    if begun:
        try:
            ray.init(address=address or "local", configure_logging=False, log_to_driver=True, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise StorageError(
                f"address={address!r}: no Ray cluster there ({error}): begin with 'ray start --head', or leave it out"
            ) from error
    try:
        return _run(ray, count, out, work, given)
    finally:
        if begun:
            ray.shutdown()


def _run(ray: Any, count: int | None, out: Path, work: Callable[..., object], given: tuple[object, ...]) -> int:
    there = ray.cluster_resources()
    gpus, machines = int(there.get("GPU", 0)), sum(node["Alive"] for node in ray.nodes())
    count = count or gpus or machines
    threads = max(1, int(there.get("CPU", 1)) // max(count, machines))
    share = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": threads}
    actor = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **share)(_Worker)
    actors = [actor.remote() for _ in range(count)]
    try:
        try:
            left = [
                each.work.remote(Rank(number, 0, count), None if gpus else threads, os.getcwd(), work, given)
                for number, each in enumerate(actors)
            ]
        except TypeError as error:
            raise OptionError(
                f"executor 'ray': an option cannot be sent to another process ({error}): give source, prior and method "
                "by name or path"
            ) from error
        _wait(ray, left, out)
    finally:
        for each in actors:  # of a cluster that goes on, they would keep their GPUs
            ray.kill(each)
    return count


def _wait(ray: Any, left: list[Any], out: Path) -> None:
    """Wait until the work of one actor has ended."""
    records, images, said, count = Records(out / SHARED, ""), 0, time.monotonic(), len(left)
    while True:
        done, left = ray.wait(left, num_returns=1, timeout=PAUSE)
        check_stop(out)
        for result in done:
            try:
                ray.get(result)
                return
            except ray.exceptions.RayTaskError as error:
                known = isinstance(error.cause, DapError) or is_short_memory(error.cause)
                raise (error.cause if known else error) from None
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                if not left:
                    raise StorageError(
                        f"{out}: Ray has lost all actors ({error}); the same command continues"
                    ) from error
                logger.warning("%s: Ray has lost an actor (%s); %d go on", out, error, len(left))
        with suppress(DapError):
            images += sum(len(line.get("files", {})) for line in records.new())
        if time.monotonic() - said > SAY:
            logger.info("%s: %d images by %d actors so far", out, images, count)
            said = time.monotonic()


class _Worker:
    """An actor; it becomes one where Ray is installed."""

    def work(
        self, rank: Rank, threads: int | None, folder: str, work: Callable[..., object], given: tuple[object, ...]
    ) -> None:  # fmt: skip
        """Do the work in the folder in which the command was started, if this machine has it."""
        if threads is not None:
            torch.set_num_threads(threads)
        with suppress(OSError):
            os.chdir(folder)
        work(rank, *given)
