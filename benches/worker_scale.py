"""Many workers on a run of many units of simulated time: what claims, ledgers and files cost, and that none is lost.

    python benches/worker_scale.py [--workers 64] [--units 50000] [--seconds 1] [--kills 8] [--folder /dev/shm/scale]

The units are made by a sleep of random length, 0.5 to 1.5 times ``--seconds``, and a painted square; everything else is
a real run of ``dap.distill``. The workers are forked from one parent, which has imported everything, so none of them
imports torch. At random times some are killed (SIGKILL), and another is started for each.

Printed are: units that are missing or were made twice; the CPU time of a unit, which is all that a worker does beside
sleeping (claims, ledgers, encoding and writing the image, its start, the end of the run); and the part of the workers'
time that was not slept, which has the waiting for a free core too: set against the cores that there are, 64 workers are
more than a machine with 64 GPUs has.

At last one worker makes the run and kills itself at its last unit, and the run is continued ``--resumes`` times.
Printed are the time from the call to that unit, and how many files were read to compare their hashes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

import dap
from dap.data import manifest
from dap.methods import Method

CLASSES = 10


@dataclass(frozen=True)
class Sleeper(Method[None]):
    """Sleeps for the time of a unit, and notes what it has made."""

    name: ClassVar = "sleeper"
    paper: ClassVar = "none"
    year: ClassVar = None
    needs: ClassVar = ()
    presets: ClassVar = {}
    couples: ClassVar = "slot"
    seconds: ClassVar[float] = 1.0
    stop: ClassVar[int | None] = None  # the unit at which the process kills itself
    made: ClassVar[list[int]] = []
    slept: ClassVar[list[float]] = []

    def prepare(self, context):
        return None

    def make(self, context, unit, artefact):
        if unit.index == self.stop:
            _report_resume()
        begin = time.monotonic()
        if self.seconds:
            time.sleep(self.seconds * random.Random(unit.index).uniform(0.5, 1.5))
        self.slept.append(time.monotonic() - begin)
        self.made.append(unit.index)
        values = [slot.class_index * 20 + slot.number % 20 for slot in unit.slots]
        return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, context.channels, 8, 8)

    def record(self, context, artefact):
        return {}

    def files(self, context, artefact):
        return {}


def distill(folder: Path, units: int) -> None:
    dap.distill(
        folder / "source", method=Sleeper(), ipc=units // CLASSES, batch_size=1, out=folder / "out", progress=False
    )


def start(folder: Path, units: int, number: int, stop: int | None = None) -> int:
    """Fork a worker, which writes its figures at its end; return its process number."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            Sleeper.made, Sleeper.slept, Sleeper.stop = [], [], stop
            cpu, begin = time.process_time(), time.monotonic()
            global _began
            _began = cpu, begin
            distill(folder, units)
            figures = {
                "units": len(Sleeper.made), "cpu": time.process_time() - cpu, "wall": time.monotonic() - begin,
                "slept": sum(Sleeper.slept), "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }  # fmt: skip
            (folder / f"worker-{number}.json").write_text(json.dumps(figures))
            status = 0
        except BaseException as error:
            print(f"worker {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return process


_began = 0.0, 0.0
_hashed: list[str] = []


def _report_resume() -> None:
    cpu, begin = _began
    print(
        f"last unit: {time.monotonic() - begin:.1f} s, {time.process_time() - cpu:.1f} s of CPU time from the "
        f"call, {len(_hashed)} files read", flush=True
    )  # fmt: skip
    os.kill(os.getpid(), signal.SIGKILL)


def run_all(folder: Path, units: int, workers: int, kills: int, expected: float) -> Counter[str]:
    """Let the workers make the run; return how many were killed and how many failed."""
    draw, counts = random.Random(0), Counter[str]()
    alive = {start(folder, units, number) for number in range(workers)}
    moments = sorted(draw.uniform(0.1, 0.9) * expected for _ in range(kills))
    begin, number = time.monotonic(), workers
    while alive:
        if moments and time.monotonic() - begin > moments[0]:
            moments.pop(0)
            process = draw.choice(sorted(alive))
            os.kill(process, signal.SIGKILL)
            alive.add(start(folder, units, number))
            number += 1
            counts["killed"] += 1
        for process in list(alive):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                alive.remove(process)
                counts["failed"] += int(os.WIFEXITED(status) and status != 0)
        time.sleep(0.05)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--units", type=int, default=50_000, help=f"a multiple of {CLASSES}")
    parser.add_argument("--seconds", type=float, default=1.0, help="mean time of a unit")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--resumes", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder; it is removed at the end")
    arguments = parser.parse_args()
    folder, units, workers = arguments.folder, arguments.units, arguments.workers
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # forked workers would share tqdm's own, which a killed one may hold
    Sleeper.seconds = arguments.seconds
    os.environ["DAP_CACHE"] = str(folder / "cache")
    for number in range(CLASSES):
        (folder / "source" / str(number)).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "source" / str(number) / "0.png")
    begin = time.monotonic()
    counts = run_all(folder, units, workers, arguments.kills, arguments.seconds * units / workers)
    wall = time.monotonic() - begin
    files = json.loads((folder / "out" / "dap.json").read_text())["files"]
    there = sum((folder / "out" / path).is_file() for path in files)
    figures = [json.loads(path.read_text()) for path in folder.glob("worker-*.json")]
    made = sum(entry["units"] for entry in figures)  # without those of the workers that were killed
    cpu, slept = sum(entry["cpu"] for entry in figures), sum(entry["slept"] for entry in figures)
    total = sum(entry["wall"] for entry in figures)
    print(f"{workers} workers, {units} units of {arguments.seconds} s, {counts['killed']} killed: {wall:.0f} s")
    print(f"units lost: {units - there}; workers that failed: {counts['failed']}")
    print(f"CPU time: {1000 * cpu / made:.1f} ms a unit, {100 * cpu / slept:.2f} % of the time of the units")
    awake = total - slept
    print(f"not slept: {100 * awake / total:.2f} % of the workers' time, {1000 * awake / made:.0f} ms a unit")
    print(f"memory of a worker: at most {max(entry['memory'] for entry in figures):.0f} MiB, with what it shares")
    resume(folder, units, arguments.resumes)
    shutil.rmtree(folder)
    wrong = units - there or counts["failed"] or counts["killed"] != arguments.kills
    sys.exit("a unit was lost, or a worker failed" if wrong else 0)


def resume(folder: Path, units: int, times: int) -> None:
    """Make the run with one worker that is killed in its last unit, and then continue it."""
    shutil.rmtree(folder / "out")
    Sleeper.seconds = 0.0
    hashed = manifest.sha256_file
    manifest.sha256_file = lambda path: _hashed.append(str(path)) or hashed(path)
    for _ in range(times + 1):  # the first one makes them
        os.waitpid(start(folder, units, -1, stop=units - 1), 0)


if __name__ == "__main__":
    main()
