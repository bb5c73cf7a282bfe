"""The plug-in of the benches: contenders of a group take turns, and pytest-benchmark gets the times.

pytest-benchmark would time one contender to its end before it begins the next. Here the first test of a group races all
of its selected contenders (``turns.py``), and each test replays the seconds of its own to pytest-benchmark.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator

import pytest
from machine import describe_machine
from turns import Group, Race, race

from dap import _core


class Replay:
    """A timer for pytest-benchmark that says what was measured before."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def read(self) -> float:
        return self.seconds

    def advance(self, recorded: Iterator[float]) -> None:
        self.seconds += next(recorded)


REPLAY = Replay()
RACES = pytest.StashKey[dict[Group, Race]]()
CACHE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="Small sizes and one round: tries the benches.")


def pytest_configure(config: pytest.Config) -> None:
    if _core.build_info()["profile"] != "release":
        raise pytest.UsageError("dap._core is a debug build, whose times mean nothing: pip install . builds a release")
    config.stash[RACES] = {}
    config.stash[CACHE] = tempfile.TemporaryDirectory(prefix="dap-cache-")
    os.environ["DAP_CACHE"] = config.stash[CACHE].name  # an old entry would spare the work that is measured


def pytest_unconfigure(config: pytest.Config) -> None:
    if CACHE in config.stash:
        config.stash[CACHE].cleanup()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A bench has ``groups(quick)`` in its module; its test runs once for each contender of each of them."""
    if "contender" in metafunc.fixturenames:
        groups: list[Group] = metafunc.module.groups(metafunc.config.getoption("quick"))
        pairs = [(group, name) for group in groups for name in group.contenders]
        names = [f"{group.name} - {name}".replace("×", "x") for group, name in pairs]  # ids are ASCII
        metafunc.parametrize(("group", "contender"), pairs, ids=names)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "take_turns" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=REPLAY.read))
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # the rivals'


@pytest.fixture
def take_turns(request: pytest.FixtureRequest, benchmark) -> Callable[[Group, str], None]:
    """``take_turns(group, contender)`` hands the contender's times to pytest-benchmark, or says why it has none."""

    def run(group: Group, contender: str) -> None:
        races = request.config.stash[RACES]
        if group not in races:
            races[group] = _raced(group, request, benchmark.disabled)
        result = races[group]
        role = group.contenders[contender].role
        failure = result.failures.get(contender)
        if isinstance(failure, ImportError) and role != "dap":
            pytest.skip(f"{failure}: pip install '.[bench]'")
        if failure is not None:
            raise failure
        seconds = result.seconds[contender]
        if not seconds:
            return  # --benchmark-disable: the result was checked
        share = result.limit / statistics.median(seconds) if result.limit else None
        benchmark.group = group.name
        benchmark.extra_info |= describe_machine() | {"contender": contender, "role": role, "share_of_limit": share}
        benchmark.pedantic(REPLAY.advance, (iter(seconds),), rounds=len(seconds))

    return run


def _raced(group: Group, request: pytest.FixtureRequest, disabled: bool) -> Race:
    names = {
        item.callspec.params["contender"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "group" in item.fixturenames and item.callspec.params["group"] is group
    }
    option = request.config.getoption
    quick, least = option("quick"), 0 if disabled else option("benchmark_min_rounds")
    return race(group, names, min_rounds=min(least, 1) if quick else least,
                max_time=0.0 if quick or disabled else float(option("benchmark_max_time")))  # fmt: skip
