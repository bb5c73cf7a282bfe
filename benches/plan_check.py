"""`dap plan` beside the run that follows it: time, memory and disk of six different runs.

    python benches/plan_check.py                     # all six, some minutes
    python benches/plan_check.py --only dit dap_set  # some of them

Each plan and each run is a process of its own with one thread, one right after the other. The cache is empty before
both. Times are those of the processor, which other work on the machine changes little; seconds on the clock stand
beside them. Disk is what the folder of the run and the cache hold at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from scale import filled, pipeline

BIN = Path(sys.executable).parent
CLASSES = ("Bag", "Coat", "Dress", "Sandal")
LABELS = [word for number, name in enumerate(CLASSES) for word in ("--label", f"{name}=class {number}")]
RUNS = {
    "dit": ["fashion-mini", "--method", "dit", "--ipc", "10"],
    "dap, index": ["fashion-mini", "--method", "dap", "--ipc", "10", "--index", "{index}"],
    "dap_set": ["fashion-mini", "--method", "dap_set", "--ipc", "10"],
    "k_medoids": ["fashion-mini", "--method", "k_medoids", "--ipc", "50"],
    "mgd3": ["fashion-mini", "--method", "mgd3", "--ipc", "10"],
    "dap, a DiT of 256 pixels": [
        "fashion-mini", "--method", "dap", "--set", "references=16", "--ipc", "4", "--prior", "{dit}", "--channels",
        "rgb", "--classes", ",".join(CLASSES), "--num-inference-steps", "20", *LABELS,
    ],
}  # fmt: skip


class Used(NamedTuple):
    output: str
    seconds: float
    cpu: float
    peak: int


def used(words: list[str], cache: Path) -> Used:
    """Run dap; return its output, its seconds, those of the processor and the most memory that it held."""
    begin = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DAP_CACHE": str(cache)}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([str(BIN / "dap"), *words], env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"dap {' '.join(words)}: exit code {process.returncode}\n{text}")
    return Used(text, time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def size(*folders: Path) -> int:
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=RUNS)
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="plan-check-"))
    places = {"index": str(base / "index"), "dit": str(base / "dit")}
    names = args.only or list(RUNS)
    if "dap, index" in names:
        used(
            ["index", "build", "fashion-mini", "--max-per-class", "64", "--out", places["index"]], base / "cache-index"
        )
    if "dap, a DiT of 256 pixels" in names:
        made = pipeline(256, filled, tiny=True)
        made.register_to_config(id2label={str(number): f"class {number}" for number in range(1000)})
        made.save_pretrained(places["dit"])
    print(
        "| run | processor s planned | real | planned ÷ real | trial ÷ run | s planned | real | GB planned | real "
        "| planned ÷ real | MB of disk planned | real | planned ÷ real |\n" + "|---" * 13 + "|", flush=True,
    )  # fmt: skip
    for name in names:
        words = [word.format(**places) for word in RUNS[name]]
        out, cache = base / "out", base / "cache"
        plan = json.loads(used(["plan", *words, "--json", "-"], cache).output)
        left = size(*cache.glob("[!h]*"))  # beside hashes of files that were read
        assert not left, f"the plan has left {left} bytes in the cache"
        real = used(["distill", *words, "--out", str(out)], cache)
        disk, planned = size(out, cache), plan["cache"] + plan["disk"]
        print(
            f"| {name} | {plan['cpu']:.1f} | {real.cpu:.1f} | {plan['cpu'] / real.cpu:.2f} "
            f"| {plan['trial'] / plan['seconds']:.0%} "
            f"| {plan['seconds']:.0f} | {real.seconds:.0f} | {plan['memory'] / 1e9:.2f} | {real.peak / 1e9:.2f} "
            f"| {plan['memory'] / real.peak:.2f} | {planned / 1e6:.2f} | {disk / 1e6:.2f} | {planned / disk:.2f} |",
            flush=True,
        )  # fmt: skip
        shutil.rmtree(out)
        shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
