"""Contenders of one group take turns, so that a slow spell of the machine falls on all of them.

All run in one process. Each is called once to warm up, and its result is checked before any of its times counts. Then
come the rounds: every contender is called once in each, in opposite orders by turns.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

MOST_ROUNDS = 15
PAUSE_SECONDS = 0.01  # each library has OpenMP threads of its own, and those of the last contender spin for a while
LOST_SECONDS, LOST_RATIO = 1.0, 5.0


@dataclass(frozen=True)
class Contender:
    """One way to get the result.

    Args:
        call: From the group's data to the result. The first call, which is not timed, imports, compiles and prepares.
        role: "dap" is dap as users call it; the fastest "rival" gives the ratio; "beside" is shown only (another
            backend, less exact arithmetic); a "limit" is what this machine needs for the bare product or copy.
        rtol: The relative error that the result may have.
    """

    call: Callable[[Any], object]
    role: Literal["dap", "rival", "beside", "limit"] = "rival"
    rtol: float = 1e-4


@dataclass(frozen=True, eq=False, repr=False)
class Group:
    """Contenders that do one task on the same data.

    Args:
        name: What the group is called in pytest-benchmark's tables.
        prepare: Makes the data that all start from, when the first contender of the group runs.
        contenders: By name; the part before a comma is the library.
        check: Raises ValueError if a result is wrong: ``check(data, result, rtol)``. It is not asked about a "limit".
    """

    name: str
    prepare: Callable[[], Any]
    contenders: Mapping[str, Contender]
    check: Callable[[Any, Any, float], None]

    def __repr__(self) -> str:  # pytest-benchmark writes it into its JSON
        return self.name


@dataclass(frozen=True)
class Race:
    """What came of a group.

    Attributes:
        seconds: The times of each contender, one for each round.
        failures: Why a contender has none.
        limit: The median of the fastest limit, or None.
    """

    seconds: Mapping[str, list[float]]
    failures: Mapping[str, Exception]
    limit: float | None


def race(group: Group, names: Collection[str], *, min_rounds: int, max_time: float) -> Race:
    """Runs the named contenders of a group by turns.

    Args:
        group: The group.
        names: Its contenders that take part.
        min_rounds: Timed calls of each; 0 warms up and checks only.
        max_time: Seconds that the fastest contender may fill with more rounds, up to 15.
    """
    threads = thread_count()
    data = group.prepare()
    calls: dict[str, Callable[[], object]] = {}
    failures: dict[str, Exception] = {}
    with equal_threads(threads):
        for name, contender in group.contenders.items():
            if name not in names:
                continue
            try:
                result = contender.call(data)
                if contender.role != "limit":
                    group.check(data, result, contender.rtol)
            except Exception as error:
                failures[name] = error
                continue
            calls[name] = lambda contender=contender: contender.call(data)
    with equal_threads(threads):  # again, for the libraries that were loaded just now
        seconds = take_turns(calls, min_rounds=min_rounds, max_time=max_time)
    limits = [statistics.median(seconds[name]) for name in calls if seconds[name] and _is_limit(group, name)]
    return Race(seconds, failures, min(limits, default=None))


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    min_rounds: int,
    max_time: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; every second round goes backwards.

    A call that needs more than a second and five times the seconds of the fastest leaves after the first round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    going = list(calls)
    turn, rounds = 0, min_rounds
    while turn < rounds:
        for name in going if turn % 2 == 0 else reversed(going):
            time.sleep(PAUSE_SECONDS)
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
        if turn == 0:
            fastest = min((times[0] for times in seconds.values()), default=1.0)
            going = [name for name in calls if seconds[name][0] <= max(LOST_SECONDS, LOST_RATIO * fastest)]
            rounds = max(min_rounds, min(MOST_ROUNDS, int(max_time / max(fastest, 1e-9))))
        turn += 1
    return seconds


def named(*parts: str) -> str:
    """Return the name of a group: its parts, and the threads of each contender."""
    return ", ".join([*parts, f"{thread_count()} thread{'s' * (thread_count() > 1)}"])


def thread_count() -> int:
    """Return how many threads each contender gets: as many as the process has cores (``taskset -c 0`` leaves one)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def equal_threads(count: int) -> Iterator[None]:
    """Give torch and every BLAS and OpenMP library that is loaded by now this number of threads, for the block.

    That covers numpy, SciPy, scikit-learn, faiss and what KeOps has compiled. dap takes the cores of the process.
    """
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    try:
        with threadpool_limits(count):
            torch.set_num_threads(count)
            yield
    finally:
        torch.set_num_threads(before)


def _is_limit(group: Group, name: str) -> bool:
    return group.contenders[name].role == "limit"
