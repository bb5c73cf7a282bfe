"""Random schedules of four workers on one feature index, with kills, stalls and take-overs: the bytes of one process.

    python benches/index_schedules.py [--schedules 40] [--seed 0] [--folder /dev/shm]

As ``worker_schedules.py``, with ``dap.build_index`` on the built-in prior: 288 images in groups of 16, one timestep. A
group that is computed is noted as a unit is there.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch
import worker_schedules
from tqdm.auto import tqdm
from worker_schedules import BEAT, PATIENCE, SAMPLED, SLOW, schedule

import dap
from dap.features import build
from dap.index import spec
from dap.priors import load_prior
from dap.storage import claims

PER_CLASS, GROUP = 96, 16


class Builds:
    """Builds of the index, and the file in which the workers note each group."""

    log = Path(os.devnull)

    def __init__(self) -> None:
        self._prior = load_prior("fashion-dit")
        features = build.noised_features

        def noted(prior, latents, ids, **options):
            with self.log.open("a") as file:
                file.write(f"{ids[0]}\n")
            return features(prior, latents, ids, **options)

        build.noised_features = noted

    def distill(self, out: Path) -> None:
        dap.build_index(
            "fashion-mini", out=out, prior=self._prior, classes=SAMPLED, max_per_class=PER_CLASS, timesteps=1,
            progress=False,
        )  # fmt: skip

    def noted(self) -> int:
        """Return how many groups the workers have begun."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the indexes are made")
    arguments = parser.parse_args()
    claims.PATIENCE, claims.BEAT, claims.POLL = SLOW * PATIENCE, BEAT, (0.005, 0.05)
    spec.GROUP_ROWS = GROUP
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # as in worker_schedules
    builds, totals, begin = Builds(), Counter[str](), time.monotonic()
    groups = len(SAMPLED) * PER_CLASS // GROUP
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        os.environ["DAP_CACHE"] = f"{folder}/cache"
        builds.distill(Path(folder, "undisturbed"))
        expected = contents(Path(folder, "undisturbed"))
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(worker_schedules.WORKERS)}
        for number in range(arguments.schedules):
            work = Path(folder, "work")
            work.mkdir()
            Builds.log = work / "log"
            counts = schedule(random.Random(f"{arguments.seed} {number}"), builds, work / "out", groups)
            again = builds.noted() - groups
            counts["groups computed"], counts["computed again"] = builds.noted(), again
            counts["too often"] = int(again > counts["kill"] + counts["stall"])
            counts["different"] = int(contents(work / "out") != expected)
            del counts["all killed"]  # it looks for the contact sheet of a run
            totals.update(counts)
            shutil.rmtree(work)
    print(f"{arguments.schedules} schedules of {worker_schedules.WORKERS} workers and {groups} groups, "
          f"{time.monotonic() - begin:.0f} s")  # fmt: skip
    print(", ".join(f"{name}: {count}" for name, count in sorted(totals.items())))
    wrong = [name for name in ("different", "failed", "hung", "too often") if totals[name]]
    sys.exit(f"wrong: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
