"""Random schedules of four workers on one run, with kills, stalls and take-overs: the bytes of an undisturbed run.

    python benches/worker_schedules.py [--schedules 1000] [--seed 0] [--folder /dev/shm] [--results FILE]
    python benches/worker_schedules.py --prior fashion-dit --schedules 40

The method paints squares, so that a run takes a fraction of a second and nearly all of it is coordination; with
``--prior`` it is "dit" with two steps. The workers are forked from one parent, which has imported everything (and
loaded the prior); some start late. At random moments one is killed (SIGKILL),
or stalled (SIGSTOP, later SIGCONT), often for longer than the others' patience, so that they take over what it had
claimed, or one more is started. When none is left, a last one ends the run.

Each schedule's folder is compared with that of one undisturbed process, byte by byte (of ``dap.json`` all but the
seconds). With ``--results`` each schedule's figures are kept in a file, and those that are there are not run again. It
prints the figures, and ends with status 1 if a byte differs, a unit is lost, or more units were made twice
than were in flight at a kill or a stall.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

import dap
from dap.methods import Method, get_method
from dap.priors import load_prior
from dap.storage import claims

CLASSES, IPC, BATCH, WORKERS = ("a", "b", "c"), 8, 2, 4
UNIT_SECONDS, PATIENCE, BEAT = 0.01, 0.25, 0.05
SLOW = 8.0  # how much longer a unit of "dit" takes, and so the patience
SAMPLED = ("Bag", "Coat", "Dress")


@dataclass(frozen=True)
class Painter(Method[None]):
    """Paints class and number of a slot, and notes each unit that it makes in a file."""

    name: ClassVar = "painter"
    paper: ClassVar = "none"
    year: ClassVar = None
    needs: ClassVar = ()
    presets: ClassVar = {}
    couples: ClassVar = "slot"

    def prepare(self, context):
        return None

    def make(self, context, unit, artefact):
        time.sleep(UNIT_SECONDS)
        values = [20 * slot.class_index + slot.number for slot in unit.slots]
        return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, context.channels, 8, 8)

    def record(self, context, artefact):
        return {"painted": True}

    def files(self, context, artefact):
        return {"palette/colours.txt": b"grey"}


class Runs:
    """The runs of the schedules, and the file in which their workers note each preparation and unit.

    Args:
        source: Real images.
        prior: Of the method "dit"; None: squares are painted.
    """

    log: ClassVar[Path] = Path(os.devnull)

    def __init__(self, source: Path, prior: str | None) -> None:
        painted: dict[str, object] = {"source": source, "method": Painter(), "ipc": IPC}
        sampled: dict[str, object] = {
            "source": "fashion-mini", "classes": SAMPLED, "method": "dit", "ipc": IPC, "num_inference_steps": 2
        }  # fmt: skip
        self._options = painted if prior is None else sampled | {"prior": load_prior(prior)}
        recipe = type(get_method(self._options["method"], {}))
        self._note(recipe, "prepare", lambda arguments: "prepared")
        self._note(recipe, "make", lambda arguments: arguments[1].index)

    def distill(self, out: Path) -> None:
        dap.distill(**self._options, batch_size=BATCH, out=out, progress=False)

    def _note(self, recipe: type, name: str, text: Callable[[tuple], object]) -> None:
        function = getattr(recipe, name)

        def noting(method, *arguments):
            with self.log.open("a") as file:
                file.write(f"{text(arguments)}\n")
            return function(method, *arguments)

        setattr(recipe, name, noting)

    def noted(self) -> int:
        """Return how many lines the workers have written: preparations and units."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0


def contents(out: Path) -> dict[str, object]:
    found: dict[str, object] = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    manifest = json.loads(found.pop("dap.json"))
    manifest.pop("seconds")
    return found | {"dap.json": manifest}


def start(runs: Runs, out: Path, delay: float) -> int:
    """Fork a worker; return its number."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            time.sleep(delay)
            runs.distill(out)
            status = 0
        except BaseException as error:
            print(f"worker: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return process


def schedule(draw: random.Random, runs: Runs, out: Path, units: int) -> Counter[str]:
    """Let workers run with random events until none is left; return how often each event happened.

    An event happens a moment after the workers have made a random number of units.
    """
    alive = dict.fromkeys(start(runs, out, draw.choice([0.0, draw.uniform(0, 0.2)])) for _ in range(WORKERS))
    counts: Counter[str] = Counter()
    events = sorted((draw.randrange(units + 1), draw.choice(["kill", "kill", "stall", "again"])) for _ in range(4))
    begin, stalled = time.monotonic(), {}
    while alive:
        now = time.monotonic() - begin
        for process in [one for one, until in stalled.items() if now > until]:
            os.kill(process, signal.SIGCONT)
            del stalled[process]
        if events and runs.noted() >= events[0][0]:
            _, event = events.pop(0)
            time.sleep(draw.uniform(0, 2 * UNIT_SECONDS))
            process = draw.choice(list(alive))
            if event == "again":
                alive[start(runs, out, 0)] = None
            elif event == "kill":
                os.kill(process, signal.SIGKILL)
                stalled.pop(process, None)
            else:
                os.kill(process, signal.SIGSTOP)
                stalled[process] = now + draw.uniform(0.5, 3) * claims.PATIENCE
            counts[event] += 1
        for process in list(alive):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                del alive[process]
                stalled.pop(process, None)
                counts["failed"] += int(os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0)
        time.sleep(0.002)
        if now > 240 * claims.PATIENCE:
            for process in alive:
                os.kill(process, signal.SIGKILL)
            counts["hung"] += 1
    counts["all killed"] += int(not (out / "contact_sheet.png").exists())
    last = start(runs, out, 0)
    counts["failed"] += int(os.waitpid(last, 0)[1] != 0)
    return counts


def run_schedule(
    number: int, seed: int, runs: Runs, work: Path, expected: dict[str, object], units: int
) -> Counter[str]:
    """Return the figures of a schedule."""
    work.mkdir()
    Runs.log = work / "log"
    counts = schedule(random.Random(f"{seed} {number}"), runs, work / "out", units)
    lines = Counter(Runs.log.read_text().split())
    prepared = lines.pop("prepared")
    again = sum(lines.values()) - units
    counts += Counter({"units made": sum(lines.values()), "made again": again, "prepared": prepared})
    counts["lost"] = units - len(lines)
    counts["too often"] = int(again > counts["kill"] + counts["stall"])
    found = contents(work / "out")
    counts["different"] = int(found != expected)
    if counts["different"] or counts["failed"] or counts["hung"] or counts["lost"]:
        odd = [path for path in found | expected if found.get(path) != expected.get(path)]
        print(f"schedule {number}: {dict(counts)} {odd}", flush=True)
    shutil.rmtree(work)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs are made; by default the system's temporary folder")
    parser.add_argument("--prior", help='sample with this prior and the method "dit"')
    parser.add_argument("--results", type=Path, help="a file for the figures of each schedule; kept ones are not run")
    arguments = parser.parse_args()
    slower = SLOW if arguments.prior else 1.0
    claims.PATIENCE, claims.BEAT, claims.POLL = slower * PATIENCE, BEAT, (0.005, 0.05)
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # forked workers would share tqdm's own, which a killed one may hold
    kept: dict[str, dict[str, int]] = {}
    if arguments.results and arguments.results.exists():
        kept = dict(json.loads(line) for line in arguments.results.read_text().splitlines())
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        os.environ["DAP_CACHE"] = f"{folder}/cache"
        source = Path(folder, "source")
        for name in CLASSES:
            (source / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(source / name / "0.png")
        runs = Runs(source, arguments.prior)
        runs.distill(Path(folder, "undisturbed"))
        expected, units = contents(Path(folder, "undisturbed")), len(CLASSES) * IPC // BATCH
        for number in range(arguments.schedules):
            name = f"{arguments.seed} {number}"
            if name not in kept:
                start_time = time.monotonic()
                counts = run_schedule(number, arguments.seed, runs, Path(folder, "work"), expected, units)
                kept[name] = dict(counts) | {"milliseconds": round(1000 * (time.monotonic() - start_time))}
                if arguments.results:
                    with arguments.results.open("a") as file:
                        file.write(json.dumps([name, kept[name]]) + "\n")
            totals.update(kept[name])
    seconds = totals.pop("milliseconds") / 1000
    print(f"{arguments.schedules} schedules of {WORKERS} workers and {units} units, {seconds:.0f} s")
    print(", ".join(f"{name}: {count}" for name, count in sorted(totals.items())))
    wrong = [name for name in ("different", "lost", "failed", "hung", "too often") if totals[name]]
    sys.exit(f"wrong: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
