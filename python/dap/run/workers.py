"""Other processes of this machine that work on the same run, beside this one."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess

import torch
from tqdm.auto import tqdm

from dap.errors import DapError, OptionError, StoppedError
from dap.run.ranks import Rank
from dap.stopping import GRACE, RESUME, stop_at_signals

__all__ = ["worker_processes"]

logger = logging.getLogger(__name__)


@contextmanager
def worker_processes(count: int, work: Callable[..., object], *arguments: object) -> Iterator[None]:
    """Let other processes do the same work during the block. They share the threads of the CPU with this one.

    This process is rank 0 of ``count``. When the block ends, the others have nothing more to do and are ended.

    Args:
        count: The number of processes, with this one.
        work: A function of a module, which gets the :class:`Rank` of its process before the arguments.
        *arguments: They have to pickle.

    Raises:
        OptionError: They do not pickle.
    """
    if count == 1:
        yield
        return
    before = torch.get_num_threads()
    threads = max(1, before // count)
    context = multiprocessing.get_context("spawn")
    others: list[SpawnProcess] = []
    try:
        for number in range(1, count):
            rank = Rank(number, number, count)
            process = context.Process(
                target=_work, args=(rank, threads, work, arguments), name=f"dap worker {number}", daemon=True
            )
            _start(process)
            others.append(process)
        torch.set_num_threads(threads)
        yield
    except BaseException:
        for process in others:
            process.terminate()
        for process in others:
            process.join(GRACE + 5)
        raise
    finally:
        torch.set_num_threads(before)
        for process in others:
            if process.exitcode not in (None, 0, RESUME, -signal.SIGTERM):
                logger.warning("%s ended with exit code %s", process.name, process.exitcode)
            process.kill()
            process.join()


def _start(process: SpawnProcess) -> None:
    try:
        process.start()
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise OptionError(
            f"workers: an option cannot be sent to another process ({error}): give it by name or path, or a class or "
            "function of a module"
        ) from error


def _work(rank: Rank, threads: int, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Do the work in a process of its own; the first process reports what every one finds wrong."""
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own is one of the system's, which a process that is ended leaves there
    try:
        with stop_at_signals():
            work(rank, *arguments)
    except StoppedError:
        sys.exit(RESUME)
    except KeyboardInterrupt:
        sys.exit(130)
    except DapError as error:
        print(f"dap: worker {rank.number}: {error}", file=sys.stderr)
        sys.exit(2)
