"""What each method costs beside unguided sampling: seconds per image, preparation, peak memory.

    python benches/methods_cost.py --rounds 3 dit dap dap_set dap_set:features mgd3 manifold_gd:fashion igd:fashion
    python benches/methods_cost.py dap_set dap_set,num_inference_steps=100 dap_set,recurrences=2 dap_set:medoids

After a comma stand options of the method, or num_inference_steps, with whole numbers. Every method makes ipc images of
each class of fashion-mini, in turns, forwards and backwards; the first round fills the cache and is the cold
preparation, the others find it. Peak memory is that of a process of its own, after loading.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import dap
from dap.priors import load_prior


def make(method: str, ipc: int, prior: object) -> dict[str, float]:
    name, *options = method.split(",")
    values = {key: int(value) for key, value in (option.split("=") for option in options)}
    settings = {key: values.pop(key) for key in ("num_inference_steps",) if key in values}
    with tempfile.TemporaryDirectory() as folder:
        made = dap.distill(
            "fashion-mini", method=name, method_options=values or None, ipc=ipc, prior=prior,
            out=Path(folder) / "set", progress=False, **settings,
        )  # fmt: skip
        return dict(made.manifest["seconds"])


def highest() -> int:
    """KiB that this process has held at most; getrusage would tell the peak of the parent, if that is higher."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def peak(method: str, ipc: int) -> float:
    """MiB that a process with the prior loaded grows by."""
    command = [sys.executable, __file__, "--memory", "--ipc", str(ipc), method]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="after the first, which is cold")
    parser.add_argument("--memory", action="store_true", help="print the peak of one method, and nothing else")
    args = parser.parse_args()
    prior = load_prior("fashion-dit")
    if args.memory:
        before = highest()
        make(args.methods[0], args.ipc, prior)
        print((highest() - before) / 1024)
        return
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DAP_CACHE"] = cache
        runs: dict[str, list[dict[str, float]]] = {method: [] for method in args.methods}
        for number in range(args.rounds + 1):
            for method in args.methods if number % 2 == 0 else reversed(args.methods):
                runs[method].append(make(method, args.ipc, prior))
        base = np.median([run["make"] for run in runs[args.methods[0]][1:]])
        print(f"| method | s/image (quartiles) | × {args.methods[0]} | prepare, cold | prepare, cached | peak MiB |")
        print("|---|---|---|---|---|---|")
        for method, own in runs.items():
            seconds = np.array([run["make"] for run in own[1:]])
            low, middle, high = np.quantile(seconds / (10 * args.ipc), (0.25, 0.5, 0.75))
            cached = np.median([run["prepare"] for run in own[1:]])
            print(
                f"| {method} | {middle:.3f} ({low:.3f}–{high:.3f}) | {np.median(seconds) / base:.2f} "
                f"| {own[0]['prepare']:.1f} s | {cached:.1f} s | {peak(method, args.ipc):,.0f} |"
            )


if __name__ == "__main__":
    main()
