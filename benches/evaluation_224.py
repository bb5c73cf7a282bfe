"""Networks and protocols at 224 pixels: seconds of an epoch, and whether a killed training ends with the same bytes.

    python benches/evaluation_224.py --keep rows --photos DIR                     # every network, hours on a CPU
    python benches/evaluation_224.py --keep rows --networks convnet6 resnet18 --protocols hard

100 crops of the photographs in DIR, or of scikit-learn's, in 10 classes are trained on for two epochs, once without a
stop, and once killed (SIGKILL) after the first epoch and continued. The last checkpoints of both, with all weights and
accuracies, are compared bit by bit. Soft labels are those of a small random network. One row is one file in the folder,
kept as soon as it is there; the same command continues.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from photographs import photographs
from safetensors import safe_open
from torch import nn

import dap
from dap.evaluation import named_protocol, run_protocol, training
from dap.evaluation.recipe import Case

CLASSES, SIDE, TEST = 10, 224, 20


def teacher() -> nn.Module:
    """A small random network."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 16, stride=16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(16, CLASSES))  # fmt: skip


def pixels(count: int, size: int, photos: Path | None) -> np.ndarray:
    return np.ascontiguousarray(np.stack(photographs(count, size, photos)).transpose(0, 3, 1, 2))


def train(network: str, protocol: str, checkpoint: Path, args: argparse.Namespace) -> None:
    """Train in this process; a checkpoint is written after each epoch."""
    training.SAVE_SECONDS = -1.0
    torch.set_num_threads(args.threads)
    options = {"epochs": args.epochs, "cadence": "last"}
    case = Case(network, -(-args.images // CLASSES), CLASSES, SIDE)
    side, test_side = named_protocol(protocol, options).sides(case, uniform=True)
    outcome = run_protocol(
        pixels(args.images, side, args.photos), np.arange(args.images) % CLASSES,
        pixels(TEST, test_side, args.photos), np.arange(TEST) % CLASSES,
        classes=CLASSES, protocol=protocol, protocol_options=options, network=network, device=args.device,
        teacher=None if protocol.startswith("hard") else teacher(), checkpoint=checkpoint,
    )  # fmt: skip
    print(outcome)


def epochs_done(checkpoint: Path) -> int:
    if not checkpoint.is_file():
        return 0
    with safe_open(checkpoint, framework="pt") as file:
        return int(file.metadata()["epochs"])


def contents(checkpoint: Path) -> dict[str, object]:
    """Return the bytes of each tensor of a checkpoint by name, and its notes."""
    with safe_open(checkpoint, framework="pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()} | file.metadata()  # noqa: SIM118


def started(network: str, protocol: str, checkpoint: Path, args: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--one", network, protocol, "--keep", str(checkpoint)]
    for name in ("images", "epochs", "threads", "device", "photos"):
        if getattr(args, name) is not None:
            command += [f"--{name}", str(getattr(args, name))]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def finished(process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0:
        raise SystemExit("a training failed; its message is above")


def row(network: str, protocol: str, args: argparse.Namespace) -> dict[str, object]:
    """Train without a stop, and with one."""
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole.safetensors", Path(folder) / "cut.safetensors"
        process, moments = started(network, protocol, whole, args), list[float]()
        while process.poll() is None:
            if epochs_done(whole) > len(moments):
                moments.append(time.monotonic())
            time.sleep(0.02)
        finished(process)
        moments += [time.monotonic()] * (len(moments) < args.epochs)
        process = started(network, protocol, cut, args)
        while epochs_done(cut) < 1 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = epochs_done(cut)
        if not 0 < done < args.epochs:
            raise SystemExit(f"{network}, {protocol}: expected to be killed between epochs, {done} were done")
        finished(started(network, protocol, cut, args))
        same = contents(whole) == contents(cut)
    seconds = (moments[-1] - moments[0]) / (args.epochs - 1)
    return {"seconds": seconds, "same": same, "images": args.images, "load": os.getloadavg()[0]}


def main() -> None:
    networks = [name for name in dap.list_networks() if not name.startswith("small_")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, required=True, help="the folder of the rows")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files")
    parser.add_argument("--networks", nargs="+", default=networks)
    parser.add_argument("--protocols", nargs="+", default=["hard", "rded", "fkd"])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return train(*args.one, args.keep, args)
    args.keep.mkdir(parents=True, exist_ok=True)
    for network in args.networks:
        for protocol in args.protocols:
            path = args.keep / f"{network}, {protocol}.json"
            if not path.is_file():
                path.write_text(json.dumps(row(network, protocol, args)))
                print(f"{network}, {protocol}: {path.read_text()}", flush=True)
    print(f"\n{describe_machine()['cpu']}, torch {torch.__version__}, threads {args.threads}\n")
    print("| network | protocol | images | seconds of an epoch | killed and continued | load |\n" + "|---" * 6 + "|")
    for path in sorted(args.keep.glob("*.json")):
        values = json.loads(path.read_text())
        network, protocol = path.stem.split(", ")
        same = "the same numbers" if values["same"] else "OTHER NUMBERS"
        print(
            f"| {network} | {protocol} | {values['images']} | {values['seconds']:.1f} | {same} | {values['load']:.1f} |"
        )


if __name__ == "__main__":
    main()
