"""Kill the preparation of each method ten times, continue it, and compare the bytes with those of an undisturbed one.

    python benches/kill_preparations.py WORK [--methods dap igd] [--kills 10]

The source has the shape of ImageNet-1K: 1,000 classes, here of three small images. The prior is a DiT with its labels,
tiny, of 64 pixels. For each method one run is left alone. Another one, with a cache of its own, gets SIGKILL at random
moments of its preparation; each time a new process continues it. At the end all files of both caches and of both runs
have to be the same. What surrogates save every minute is saved ten times a second here, so that kills meet it.

``WORK`` keeps what was measured, so the script continues too. It prints a table, and ends with status 1 if bytes
differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, IMAGES, SEED = 64, 3, 0
RUN = {"ipc": 1, "num_inference_steps": 2, "device": "cpu", "progress": False}
SURROGATE = {"network": "convnet5", "width": 4}
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "dap": ("dap", {}),
    "igd": ("igd", {**SURROGATE, "epochs": 4, "checkpoints": 2, "similarity": 1.0}),
    "mgd3": ("mgd3", {}),
    "plug_and_play, classifier": ("plug_and_play", {**SURROGATE, "steps": 2, "constraint": "classifier", "epochs": 8}),
    "dap_set": ("dap_set", {}),
    "d4m": ("d4m", {}),
    "manifold_gd": ("manifold_gd", {}),
    "plug_and_play": ("plug_and_play", {"steps": 2}),
}
IMPORTS = [
    "dap.api",
    "dap.priors.dit",
    "dap.priors.stable_diffusion",
    "dap.priors.unet",
    "diffusers.guiders",
    "diffusers.pipelines.dit.pipeline_dit",
    "diffusers.schedulers.scheduling_unipc_multistep",
    "timm.data.imagenet_info",
]  # which take longer than a preparation; once for all processes
COLUMNS = (
    "method", "preparation", "kills", "files of the cache", "same", "files of the run", "same", "planned", "on disk",
    "second seed",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """The folders of the script."""

    work: Path

    @property
    def source(self) -> Path:
        return self.work / "source"

    @property
    def prior(self) -> Path:
        return self.work / "prior"


def make_source(folder: Path, names: list[str]) -> None:
    """Write three images of noise and a colour for each class."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        draw = np.random.default_rng(number)
        colour = draw.integers(0, 200, 3)
        for image in range(IMAGES):
            pixels = (colour + draw.integers(0, 56, (SIZE, SIZE, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{image}.png")


def make_prior(folder: Path, names: dict[str, str]) -> None:
    """Save a pipeline in the shape of DiT-XL/2, with ImageNet's labels, few layers and narrow."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_layers=3, num_attention_heads=2, attention_head_dim=8, patch_size=2, sample_size=8, in_channels=4,
        out_channels=8, num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, layers_per_block=1, latent_channels=4,
        scaling_factor=0.18215,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False, beta_start=1e-4, beta_end=0.02)
    pipeline = DiTPipeline(transformer, vae, scheduler, id2label=names)
    pipeline.register_to_config(id2label=names)
    pipeline.save_pretrained(folder)


def request(place: Place, method: str, seed: int) -> dict[str, object]:
    """Return the options of a run."""
    name, options = METHODS[method]
    return {
        "source": str(place.source), "prior": str(place.prior), "method": name, "method_options": options,
        "seed": seed, **{option: value for option, value in RUN.items() if option != "progress"},
    }  # fmt: skip


def distill(place: Place, method: str, out: Path, cache: Path, started: Connection) -> None:
    """In a process of its own: make a run, and say when its preparation begins."""
    os.environ["DAP_CACHE"] = str(cache)
    import dap
    from dap.methods import get_method
    from dap.methods.common import surrogate_training

    surrogate_training.SAVE_SECONDS = 0.1
    recipe = type(get_method(*METHODS[method]))
    prepare = recipe.prepare

    def announced(self: object, context: object) -> object:
        started.send("prepare")
        artefact = prepare(self, context)  # type: ignore[arg-type]
        started.send("make")
        return artefact

    recipe.prepare = announced  # type: ignore[method-assign]
    dap.distill(out=out, progress=False, **request(place, method, SEED))  # type: ignore[arg-type]


def second_seed(place: Place, method: str, cache: Path, answer: Connection) -> None:
    """In a process of its own: say what the cache was planned to hold, and what another seed adds to it."""
    os.environ["DAP_CACHE"] = str(cache)
    from dap.run.job import Request, resolve
    from dap.run.memory import footprint
    from dap.storage.cache import cache_in_use, cache_size

    planned = footprint(resolve(Request(**request(place, method, SEED)))).disk  # type: ignore[arg-type]
    job, before = resolve(Request(**request(place, method, SEED + 1))), cache_size()  # type: ignore[arg-type]
    with cache_in_use():
        began = time.monotonic()
        job.recipe.prepare(job.context())
        seconds = time.monotonic() - began
    answer.send({"planned": planned, "second_bytes": cache_size() - before, "second_seconds": seconds})


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file; of a manifest, without its times."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.name == "dap.json":
            data = json.dumps(json.loads(data) | {"seconds": {}}).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def run_killed(
    place: Place, method: str, whole_seconds: float, kills: int, folder: Path, draw: np.random.Generator
) -> int:
    """Kill a run at random moments of its preparation and continue it to the end; return the number of kills.

    The moments are shares of the work of the whole preparation; a process continues about where the last one was. If
    one is quicker, there are fewer kills.
    """
    context = multiprocessing.get_context("forkserver")
    moments = np.sort(draw.random(kills)) * whole_seconds
    waits, done = iter(np.diff(moments, prepend=0.0)), 0
    while True:
        ours, theirs = context.Pipe()
        process = context.Process(target=distill, args=(place, method, folder / "out", folder / "cache", theirs))
        process.start()
        theirs.close()
        wait = next(waits, None)
        ours.recv()  # it prepares now
        if wait is None or ours.poll(float(wait)):
            process.join()
            if process.exitcode:
                raise SystemExit(f"{method}: a run ended with status {process.exitcode}")
            return done
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        done += 1


def measure(place: Place, method: str, kills: int) -> dict[str, object]:
    """Return what the table says about a method."""
    context = multiprocessing.get_context("forkserver")
    whole, killed = place.work / "whole", place.work / "killed"
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
    ours, theirs = context.Pipe()
    process = context.Process(target=distill, args=(place, method, whole / "out", whole / "cache", theirs))
    process.start()
    ours.recv()
    began = time.monotonic()
    ours.recv()
    seconds = time.monotonic() - began
    process.join()
    draw, count = np.random.default_rng(list(method.encode())), 0
    differing: list[set[str]] = [set(), set()]
    while count < kills:
        shutil.rmtree(killed, ignore_errors=True)
        count += run_killed(place, method, seconds, kills - count, killed, draw)
        compared = [(hashes(whole / name), hashes(killed / name)) for name in ("cache", "out")]
        for names, (first, second) in zip(differing, compared, strict=True):
            names |= {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    held = sum(path.stat().st_size for path in (whole / "cache").rglob("*") if path.is_file())
    ours, theirs = context.Pipe()
    process = context.Process(target=second_seed, args=(place, method, whole / "cache", theirs))
    process.start()
    answer = ours.recv()
    process.join()
    return {
        "seconds": seconds, "kills": count, "cache_files": len(compared[0][0]), "run_files": len(compared[1][0]),
        "held": held, "cache_differs": sorted(differing[0]), "run_differs": sorted(differing[1]), **answer,
    }  # fmt: skip


def line(method: str, row: Mapping[str, object]) -> str:
    """Return a row of the table."""

    def megabytes(key: str) -> str:
        return f"{float(str(row[key])) / 1e6:,.1f} MB"

    cells = [
        f"`{method}`", f"{row['seconds']:.0f} s", row["kills"], f"{row['cache_files']:,}",
        "no" if row["cache_differs"] else "yes", f"{row['run_files']:,}", "no" if row["run_differs"] else "yes",
        megabytes("planned"), megabytes("held"), f"{megabytes('second_bytes')}, {row['second_seconds']:.0f} s",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", type=Path, help="a folder for the source, the caches and the results")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    place, results = Place(options.work.absolute()), options.work / "rows.json"
    if not (place.work / "made").exists():
        from timm.data.imagenet_info import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        names = sorted(info.label_names())
        for folder in (place.source, place.prior):
            shutil.rmtree(folder, ignore_errors=True)
        make_source(place.source, names)
        make_prior(place.prior, {str(i): info.label_name_to_description(name) for i, name in enumerate(names)})
        (place.work / "made").touch()
    multiprocessing.set_forkserver_preload(IMPORTS)
    rows = json.loads(results.read_text()) if results.exists() else {}
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for method in options.methods:
        if method not in rows:
            rows[method] = measure(place, method, options.kills)
            results.write_text(json.dumps(rows, indent=1))
        print(line(method, rows[method]), flush=True)
    sys.exit(any(rows[method][key] for method in options.methods for key in ("cache_differs", "run_differs")))


if __name__ == "__main__":
    main()
