"""Random schedules of four workers on one feature index, with kills, stalls and take-overs: the bytes of one process.

    python benches/index_schedules.py [--schedules 40] [--seed 0] [--folder /dev/shm] [--method mgd3]

As ``worker_schedules.py``, with ``dap.build_index`` on the built-in prior: 288 images in groups of 16, one timestep. A
group that is computed is noted as a unit is there. With ``--method`` it is what ``dap.distill`` prepares for that
method, each time in an empty cache: "mgd3" encodes the images and finds the modes, "dap" computes features of all of
them. The files of the run and of the cache are compared. There a process that is stalled for long is not waited for,
and what it alone has is computed again; so the number of groups that are computed again is told, and is no error.
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

import numpy as np
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
KINDS = ("latents", "modes", "indexes")  # of the cache


class Builds:
    """What the workers make, and the file in which they note each group.

    Args:
        method: Whose preparation they share; None: a feature index.
    """

    log = Path(os.devnull)

    def __init__(self, method: str | None) -> None:
        self._prior, self._method = load_prior("fashion-dit"), method
        images = dap.open_source("fashion-mini").subset(SAMPLED)
        self._images = images.select(np.concatenate([images.of_class(c)[:PER_CLASS] for c in range(len(SAMPLED))]))
        encode = build.encode_images

        def noted(prior, images):
            with self.log.open("a") as file:
                file.write(f"{len(images)}\n")
            return encode(prior, images)

        build.encode_images = noted

    def distill(self, out: Path) -> None:
        if self._method is None:
            dap.build_index(
                "fashion-mini", out=out, prior=self._prior, classes=SAMPLED, max_per_class=PER_CLASS, timesteps=1,
                progress=False,
            )  # fmt: skip
            return
        options = {"references": PER_CLASS} if self._method == "dap" else {}
        os.environ["DAP_CACHE"] = str(out.parent / "cache")
        dap.distill(
            self._images, out=out, prior=self._prior, method=self._method, method_options=options, ipc=1,
            num_inference_steps=2, progress=False,
        )  # fmt: skip

    def noted(self) -> int:
        """Return how many groups the workers have begun."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0


def contents(out: Path) -> dict[str, object]:
    """Return all files, of a run's manifest what the bytes depend on, and those of its cache."""
    if not (out / "dap.json").exists():
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    cached = [path for kind in KINDS for path in (out.parent / "cache" / kind).rglob("*") if path.is_file()]
    return worker_schedules.contents(out) | {str(path.relative_to(out.parent)): path.read_bytes() for path in cached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the indexes are made")
    parser.add_argument("--method", help="share the preparation of this method instead")
    arguments = parser.parse_args()
    claims.PATIENCE, claims.BEAT, claims.POLL = SLOW * PATIENCE, BEAT, (0.005, 0.05)
    spec.GROUP_ROWS = GROUP
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # as in worker_schedules
    builds, totals, begin = Builds(arguments.method), Counter[str](), time.monotonic()
    groups = len(SAMPLED) * PER_CLASS // GROUP
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        os.environ["DAP_CACHE"] = f"{folder}/cache"
        builds.distill(Path(folder, "undisturbed", "out"))
        expected = contents(Path(folder, "undisturbed", "out"))
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
    wrong = [name for name in ("different", "failed", "hung") if totals[name]]
    wrong += ["too often"] if totals["too often"] and arguments.method is None else []
    sys.exit(f"wrong: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
