"""Contenders taking turns: how ``dap bench`` takes times.

All run in one process. Each is called once to warm up, and its result is checked before any of its times count. Then
come the rounds, in each of which every contender is called once, forwards and backwards by turns, so that a slow spell
of the machine falls on all of them. Medians and quartiles over the rounds are compared.

A contender that took over a second to warm up and five times as long as the fastest is a lost cause: it gets three
rounds, the warm-up among them, or none but the warm-up if that took over 20 s.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Contender", "Timing", "race"]

_PAUSE_SECONDS = 0.02
_LOST_SECONDS, _LOST_RATIO, _LOST_ROUNDS, _HOPELESS_SECONDS = 1.0, 5.0, 3, 20.0


@dataclass(frozen=True)
class Contender:
    """One way to get the result.

    Args:
        name: What it is called in the tables; what stands before a comma is the library.
        call: From the rows to the result; nothing is prepared outside of it but what is compiled.
        role: "dap" is us, "rival" counts for the ratio, "beside" is shown only (other dtypes, less exact results).
        rtol: The relative error that its result may have.
    """

    name: str
    call: Callable[[], Any]
    role: Literal["dap", "rival", "beside"] = "rival"
    rtol: float = 1e-4


@dataclass(frozen=True)
class Timing:
    """The seconds of each round of one contender.

    Example:
        >>> Timing((1.0, 3.0, 2.0)).quartiles
        (1.5, 2.0, 2.5)
    """

    seconds: tuple[float, ...]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The first quartile, the median and the third quartile, interpolated between rounds."""
        if len(self.seconds) == 1:
            return self.seconds * 3
        first, median, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, median, third


def race(
    contenders: Iterable[Contender], rounds: int, check: Callable[[Any, float], None]
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Measures the contenders by the rules above.

    Args:
        contenders: In the order of the first round; names differ.
        rounds: At least 1; nine or more for numbers that are written down.
        check: Called with the result and the contender's rtol; raises if the result is wrong.

    Returns:
        The timings by name, and by name the reason of those that failed or were wrong.

    Example:
        >>> def check(result: float, rtol: float) -> None:
        ...     if result != 4.0:
        ...         raise ValueError(f"{result} is not 4.0")
        >>> times, failures = race([Contender("sum", lambda: 2.0 + 2.0), Contender("odd", lambda: 5.0)], 9, check)
        >>> list(times), len(times["sum"].seconds), failures
        (['sum'], 9, {'odd': 'ValueError: 5.0 is not 4.0'})
    """
    warm_up: dict[str, float] = {}
    failures: dict[str, str] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for contender in contenders:
        try:
            seconds, result = _timed(contender.call)
            check(result, contender.rtol)
        except Exception as error:
            failures[contender.name] = f"{type(error).__name__}: {error}"
            continue
        warm_up[contender.name], calls[contender.name] = seconds, contender.call

    planned, seconds_of = {}, {}
    for name, seconds in warm_up.items():
        lost = seconds > _LOST_SECONDS and seconds > _LOST_RATIO * min(warm_up.values())
        planned[name] = rounds if not lost else 1 if seconds > _HOPELESS_SECONDS else min(_LOST_ROUNDS, rounds)
        seconds_of[name] = [seconds] if lost else []
    for turn in range(rounds):
        for name in list(calls) if turn % 2 == 0 else reversed(calls):
            if len(seconds_of[name]) < planned[name]:
                seconds_of[name].append(_timed(calls[name])[0])
    return {name: Timing(tuple(seconds)) for name, seconds in seconds_of.items()}, failures


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    # Each library has OpenMP threads of its own, and those of the last contender spin for some milliseconds.
    time.sleep(_PAUSE_SECONDS)
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result
