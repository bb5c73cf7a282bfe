"""Each method from the command line at the shape of DiT-XL/2, on photographs: time, memory, and the memory planned.

    python benches/dit_xl.py PHOTOS --keep FOLDER                       # a table of docs/memory.md, on a CPU, in hours
    python benches/dit_xl.py PHOTOS --keep FOLDER --methods dit mgd3

PHOTOS has a folder for each class, named after its ImageNet id, with one photograph or more. Of the first ten classes,
forty crops of 256 pixels each are the source. The prior is a folder with a pipeline of random weights, the transformer
in bfloat16, the VAE in float32. Each method makes one image a class in three steps by ``dap distill``, in a process
of its own. FOLDER keeps the prior, the crops, the cache of dap and a row for each finished method, so the same
command continues after a stop. The cache is shared: the first method that needs the latents of all images pays for
them.

Peak memory is that of the whole process. The plan is of what the run adds to a process with the libraries imported
(``dap.run.memory.footprint``), so the column "planned" has their memory too, which is measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

CLASSES, CROPS, SIZE, STEPS = 10, 40, 256, 3
METHODS: dict[str, dict[str, object]] = {
    "dit": {}, "mgd3": {}, "manifold_gd": {}, "d4m": {},
    "coda": {"n_components": 10, "n_neighbors": 15, "min_cluster_size": 8},
    "dap": {"references": 4}, "dap_set": {"references": 4}, "dap_networks": {},
    "dap_networks, latent": {"space": "latent"},
    "igd": {"epochs": 2, "width": 32}, "ld3m": {"steps": 2, "chain": 2, "width": 32, "batch": 8},
}  # fmt: skip
AT_ONCE = {"igd": 4}  # by default as many as fit half of the machine's memory
GB = 1e9


def crops(photos: Path, out: Path) -> None:
    """Write crops of the photographs of the first classes, a folder for each class."""
    import numpy as np
    from PIL import Image

    classes = sorted(path for path in photos.iterdir() if path.is_dir())[:CLASSES]
    for number, folder in enumerate(classes):
        draw, files = np.random.default_rng(number), sorted(path for path in folder.iterdir() if path.is_file())
        if not files:
            raise SystemExit(f"{folder}: no photograph; expected the folder above those of the classes")
        (out / folder.name).mkdir(parents=True, exist_ok=True)
        for crop in range(CROPS):
            with Image.open(files[crop % len(files)]) as photograph:
                side = int(min(photograph.size) * draw.uniform(0.5, 1))
                left, top = (int(draw.integers(length - side + 1)) for length in photograph.size)
                image = photograph.convert("RGB").resize((SIZE, SIZE), box=(left, top, left + side, top + side))
            image.save(out / folder.name / f"{crop:02}.png")


def build(photos: Path, keep: Path) -> None:
    """Write the crops and the prior."""
    from scale import filled, pipeline

    crops(photos, keep / "crops")
    pipeline(SIZE, filled).save_pretrained(keep / "unfinished")
    (keep / "unfinished").rename(keep / "prior")


def plan(keep: Path, methods: list[str]) -> None:
    """Print, as JSON, the memory of the libraries, and the plan of each method's run."""
    import diffusers.pipelines  # noqa: F401

    from dap.priors import load_prior
    from dap.run.job import Request, resolve
    from dap.run.memory import device_memory, footprint

    libraries = int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    prior, plans = load_prior(keep / "prior", device="cpu", dtype="bfloat16"), {}
    for name in methods:
        job = resolve(Request(
            source=keep / "crops", prior=prior, method=name.split(",")[0], method_options=METHODS[name], ipc=1,
            num_inference_steps=STEPS,
        ))  # fmt: skip
        found = footprint(job)
        fit = found.fit(device_memory(job.prior.device) // 2) or CLASSES
        slots = min(CLASSES, AT_ONCE.get(name, fit))
        plans[name] = {"peak": found.peak(slots), "slots": slots}
    print(json.dumps({"libraries": libraries, "plans": plans}))


def command(keep: Path, name: str) -> list[str]:
    """Return the command line of a method's run."""
    options = [part for key, value in METHODS[name].items() for part in ("--set", f"{key}={value}")]
    if name in AT_ONCE:
        options += ["--batch-size", str(AT_ONCE[name])]
    return [
        "dap", "distill", str(keep / "crops"), "--out", str(keep / "out" / name), "--method", name.split(",")[0],
        *options,
        "--prior", str(keep / "prior"), "--dtype", "bfloat16", "--device", "cpu", "--ipc", "1",
        "--num-inference-steps", str(STEPS),
    ]  # fmt: skip


def run(keep: Path, name: str) -> dict[str, object]:
    """Run a method; return its wall and CPU seconds and its peak of resident memory in bytes."""
    start = time.monotonic()
    with open(keep / f"{name}.log", "ab") as log:
        process = subprocess.Popen(command(keep, name), stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed, see {keep / name}.log: {' '.join(command(keep, name))}")
    images = len(list((keep / "out" / name / "train").glob("*/*.png")))
    return {
        "wall": time.monotonic() - start, "cpu": usage.ru_utime + usage.ru_stime, "peak": 1024 * usage.ru_maxrss,
        "images": images,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder for each class, named after its ImageNet id")
    parser.add_argument("--keep", type=Path, required=True, help="folder of everything that is made; 4 GB")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plan", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        return build(args.photos, args.keep)
    if args.plan:
        return plan(args.keep, args.methods)
    args.keep.mkdir(parents=True, exist_ok=True)
    os.environ["DAP_CACHE"] = str(args.keep / "cache")
    again = [sys.executable, __file__, str(args.photos), "--keep", str(args.keep)]
    if not (args.keep / "prior").exists():
        subprocess.run([*again, "--build"], check=True)
    rows_file = args.keep / "rows.json"
    rows = json.loads(rows_file.read_text()) if rows_file.exists() else {}
    for name in args.methods:
        if name not in rows:
            rows[name] = run(args.keep, name)
            rows_file.write_text(json.dumps(rows, indent=1))
    done = [name for name in METHODS if name in rows]
    planned = subprocess.run([*again, "--plan", "--methods", *done], check=True, stdout=subprocess.PIPE, text=True)
    table(rows, json.loads(planned.stdout.splitlines()[-1]), done)


def table(rows: dict[str, dict[str, float]], planned: dict[str, dict[str, dict[str, float]]], names: list[str]) -> None:
    libraries: float = planned["libraries"]  # type: ignore[assignment]
    print(f"\nThe libraries take {libraries / GB:.2f} GB.\n")
    print("| method | options | images at once | minutes | CPU minutes | peak GB | planned GB | peak / planned |")
    print("|---" * 8 + "|")
    for name in names:
        row, plan = rows[name], planned["plans"][name]
        options = " ".join(f"`{key}={value}`" for key, value in METHODS[name].items())
        expected = libraries + plan["peak"]
        print(
            f"| `{name}` | {options} | {plan['slots']} | {row['wall'] / 60:.1f} | {row['cpu'] / 60:.1f} "
            f"| {row['peak'] / GB:.2f} | {expected / GB:.2f} | {row['peak'] / expected:.2f} |"
        )


if __name__ == "__main__":
    main()
