"""One run made in every way in which a run can be started, and its folders compared byte by byte.

    pip install '.[ray]' accelerate
    python benches/executors.py                     # one process, workers, torchrun, a SLURM array, Ray, accelerate
    python benches/executors.py --only ray torchrun --keep FOLDER

Each way has two workers with one thread each. Of Ray's two actors one is killed with its process while it works.
`accelerate launch` starts one process and says nothing where there is no GPU: the script asserts how many there were.
Folders are compared without what a run records of its own: seconds, and the version of the numbers of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RUN = ["distill", "fashion-mini", "--method", "dap", "--set", "references=8", "--classes", "Bag,Coat,Dress,Sandal",
       "--ipc", "8", "--batch-size", "2", "--num-inference-steps", "12"]  # fmt: skip
OWN = ("seconds",)  # entries of the manifest in which runs differ
BIN = Path(sys.executable).parent


def environment(cache: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "DAP_CACHE": str(cache), "RAY_USAGE_STATS_ENABLED": "0", **more}


def tree(out: Path) -> dict[str, str]:
    """The hash of every file below a folder; of the manifest without what differs between runs."""
    hashes = {}
    for file in sorted(out.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            if file.name == "dap.json":
                data = json.dumps({k: v for k, v in json.loads(data).items() if k not in OWN}).encode()
            hashes[str(file.relative_to(out))] = hashlib.sha256(data).hexdigest()
    return hashes


def command(out: Path, *more: str) -> list[str]:
    return [str(BIN / "dap"), *RUN, "--out", str(out), *more]


def start(words: list[str], cache: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(words, env=environment(cache, **more), text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)  # fmt: skip


def finish(processes: list[subprocess.Popen[str]], codes: tuple[int, ...] = (0,)) -> str:
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode not in codes:
            raise SystemExit(f"{process.args}: exit code {process.returncode}\n{output}")
    return "".join(outputs)


def one(out: Path, cache: Path) -> str:
    finish([start(command(out), cache)])
    return "1 process"


def workers(out: Path, cache: Path) -> str:
    finish([start(command(out, "--workers", "2"), cache, OMP_NUM_THREADS="2")])  # which they divide
    return "2 processes"


def torchrun(out: Path, cache: Path) -> str:
    words = [str(BIN / "torchrun"), "--nproc_per_node", "2", "--master_port", "29713", "--no-python", *command(out)]
    output = finish([start(words, cache)])
    both = "both worked" if output.count("images in") == 2 else "one worked"
    return f"2 processes, {both} until the end"


def slurm(out: Path, cache: Path) -> str:
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
    finish([start(command(out), cache, SLURM_ARRAY_TASK_ID=str(task), **array) for task in range(2)])
    return "2 tasks"


def accelerate(out: Path, cache: Path) -> str:
    probe = "import os; print('world', os.environ.get('WORLD_SIZE', '1'))"
    launch = [str(BIN / "accelerate"), "launch", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]  # fmt: skip
    worlds = re.findall(r"world (\d+)", finish([start([*launch, "--no_python", sys.executable, "-c", probe], cache)]))
    assert worlds == ["1"], f"accelerate launch now starts {len(worlds)} processes of {worlds} without a GPU"
    finish([start([*launch, "--no_python", *command(out)], cache)])
    return "1 process, as WORLD_SIZE says"


def ray(out: Path, cache: Path) -> str:
    """Two actors of a cluster; the process of one is killed once images are there."""
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets allow no long path
    head = [str(BIN / "ray"), "start", "--head", "--num-cpus", "2", "--port", "6391", "--include-dashboard=false",
            "--object-store-memory", "80000000", "--disable-usage-stats", "--temp-dir", temporary]  # fmt: skip
    subprocess.run(head, env=environment(cache), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        driver = start(command(out, "--executor", "ray", "--address", "127.0.0.1:6391", "--workers", "2"), cache)
        killed = None
        while killed is None and driver.poll() is None:
            time.sleep(0.1)
            if len(list(out.glob("train/*/*.png"))) >= 4:
                killed = victim(out)
        output = finish([driver])
        assert killed is not None, f"the run ended before an actor could be killed\n{output}"
        return f"2 actors; {killed} killed"
    finally:
        for process in cluster(temporary):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)


def victim(out: Path) -> str | None:
    """Kill an actor that has a unit, by the name of its claim; return the unit."""
    for claim in (out / ".dap-run").glob("unit-*"):
        name = re.fullmatch(r".+-(\d+)-[0-9a-f]{8}", claim.read_text())
        if name:
            os.kill(int(name[1]), signal.SIGKILL)
            return f"that with {claim.name}"
    return None


def cluster(temporary: str) -> list[int]:
    """The processes of the cluster that has this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if temporary.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


WAYS: dict[str, Callable[[Path, Path], str]] = {
    "one process": one, "--workers 2": workers, "torchrun": torchrun, "SLURM array": slurm, "ray": ray,
    "accelerate": accelerate,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[name for name in WAYS if name != "one process"])
    parser.add_argument("--keep", type=Path, help="keep the folders here")
    args = parser.parse_args()
    base = args.keep or Path(tempfile.mkdtemp(prefix="executors-"))
    expected: dict[str, str] = {}
    print("| started by | workers | files | against one process |\n|---|---|---|---|", flush=True)
    for name, way in WAYS.items():
        if args.only and name not in ("one process", *args.only):
            continue
        folder = base / re.sub(r"\W+", "-", name)
        said = way(folder / "out", folder / "cache")
        files = tree(folder / "out")
        expected = expected or files
        differing = sorted(file for file in expected.keys() | files.keys() if expected.get(file) != files.get(file))
        same = "the same bytes" if not differing else f"{len(differing)} differ, such as {differing[0]}"
        print(f"| {name} | {said} | {len(files)} | {same} |", flush=True)
        if differing:
            sys.exit(1)
    if args.keep is None:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
