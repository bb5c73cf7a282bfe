"""Compares methods by networks of four kinds, trained on the hard labels of their sets and on a teacher's. Resumable.

    python examples/architectures_study.py --out runs/architectures \
        --table runs/architectures/table.md --plot docs/architectures.png

Each seed draws its own sets of 10 and of 50 images a class from fashion-mini with the prior fashion-dit, and trains one
network of each kind on each of them, with that seed; the accuracy is that on all test images after the last step. Hard
labels are those of protocol `small`. Soft labels are those of protocol `rded` with the changes in SOFT: the
probabilities of dap's judge, a ConvNet-3 of 64 channels that is trained once on all real training images. ConvNet-3 is
trained with every seed, the other networks with the first half of the seeds, or with as many as --others says. To tune,
take --seeds 1000 1004 --test held-out: the training images on which compare_methods.py tunes.

Other images, and a prior of theirs:

    python examples/architectures_study.py --out runs/cifar --seeds 0 4 --ipc 10 \
        --source cifar10-train.parquet --test cifar10-test.parquet --prior cifar-prior

A set is a run of dap in OUT/sets, and an outcome a JSON line in OUT/outcomes*.jsonl; both are kept as soon as they are
made, and what is there is not done again. Another machine continues from the outcomes alone: it makes the sets that a
training needs again, which the time left does not count. Seeds are the outer loop, and the tables take those that all
methods have, so that a study that was stopped has equally many of each. What is left to do is printed before the start,
with its time by the seconds of the same parts in OUT, else by SECONDS. Two processes may work side by side: --part 1/2
and --part 2/2.

--only takes any methods, with their options: --only k_medoids "dm:fashion steps=1000". Without it the methods are those
of METHODS, for the nearest number of images a class. The tables and the picture show the same methods. "random through
the VAE" are the images of random, encoded and decoded by the prior's VAE.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from architectures_table import Record, markdown, plot
from compare_methods import held_out
from safetensors.torch import load, save
from torch import nn

import dap
from dap import rng
from dap.config import parse_assignments
from dap.data.open import open_source
from dap.evaluation import Teacher, run_protocol
from dap.evaluation.judge import JUDGE
from dap.features import encode_images
from dap.nets import accuracy, create_net
from dap.priors import load_prior
from dap.storage.cache import cache_folder
from dap.storage.files import write_atomic
from dap.storage.ledger import Ledger

ALWAYS = ("random", "k_medoids", "dit", "dap", "dap_set")
METHODS = {10: (*ALWAYS, "dap_networks:trained"), 50: (*ALWAYS, "dap_networks:trained_ipc50")}
NETWORKS = (
    ("convnet3", "hard"), ("small_resnet_ap10", "hard"), ("small_vit", "hard"), ("small_mlp", "hard"),
    ("convnet3", "soft"), ("small_mlp", "soft"),
)  # fmt: skip
EVERY_SEED = "convnet3"
THROUGH_VAE = " through the VAE"
SIZE = 32
HARD = {"checks": 1}
SOFT = {"size": SIZE, "width": 32, "strips": 1, "crop": 0.5, "cadence": "last"}  # the sets are no collages of 2 x 2

# Seconds of one busy core of an AMD EPYC, by kind of part, for those that OUT has no seconds of.
SECONDS = {
    "random 10": 5, "k_medoids 10": 20, "dit 10": 15, "dap 10": 25, "dap_set 10": 25,
    "dap_networks:trained 10": 72, "dap_networks:trained_ipc50 50": 146,
    "random 50": 5, "k_medoids 50": 20, "dit 50": 60, "dap 50": 75, "dap_set 50": 70,
    "convnet3 hard 10": 46, "small_resnet_ap10 hard 10": 132, "small_vit hard 10": 100, "small_mlp hard 10": 2,
    "convnet3 hard 50": 65, "small_resnet_ap10 hard 50": 226, "small_vit hard 50": 140, "small_mlp hard 50": 2,
    "convnet3 soft 10": 40, "small_mlp soft 10": 25, "convnet3 soft 50": 248, "small_mlp soft 50": 100,
}  # fmt: skip


class Part(NamedTuple):
    """A set, or a training on it; `network` is "" for the set."""

    seed: int
    ipc: int
    method: str
    network: str = ""
    labels: str = ""

    @property
    def kind(self) -> str:
        """What the time depends on: all but the seed, and for a training the method."""
        return f"{self.method} {self.ipc}" if not self.network else f"{self.network} {self.labels} {self.ipc}"

    @classmethod
    def of(cls, record: Record) -> Part:
        """Return the part whose outcome a record is."""
        return cls(**{name: record[name] for name in cls._fields})

    def folder(self, out: Path) -> Path:
        """Where the set is."""
        return out / "sets" / f"{re.sub('[^A-Za-z0-9_.=]+', '-', self.method)}-{self.ipc}-{self.seed}"


class Data(NamedTuple):
    """What is distilled, what networks are tested on (empty: the test split of the source), and the prior."""

    source: str = "fashion-mini"
    test: str = ""
    prior: str = "fashion-dit"

    def claim(self, out: Path) -> None:
        """Note in `out` that its outcomes are of these images; end the process if they are of others."""
        file, own = out / "data.json", json.dumps(self._asdict())
        if file.exists() and file.read_text() != own:
            raise SystemExit(f"{out} has outcomes of {file.read_text()}, and these are of {own}: give another --out")
        write_atomic(file, own.encode())


def parts(seeds: Sequence[int], others: Sequence[int], methods: Mapping[int, Sequence[str]]) -> Iterator[Part]:
    """Return the parts of a process in the order in which they are done; `others` are the seeds of all networks."""
    for seed in seeds:
        for ipc, names in methods.items():
            for method in names:
                yield Part(seed, ipc, method)
                for network, labels in NETWORKS:
                    if network == EVERY_SEED or seed in others:
                        yield Part(seed, ipc, method, network, labels)


@cache
def real_images(data: Data, split: str, channels: int, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a split, uint8 (N, channels, SIZE, SIZE), and their labels, positions in `classes`."""
    own = data.test if split == "test" else ""
    if own == "held-out":
        return held_out()
    source = open_source(own) if own else open_source(data.source, split=split)
    labels = np.array([classes.index(name) for name in source.class_names])[source.labels]  # the order may differ
    return source.images(range(len(source)), size=SIZE, channels=channels), labels


@cache
def teacher(out: Path, data: Data, channels: int, classes: tuple[str, ...]) -> Teacher:
    """Return the teacher: trained on the real training images, or kept in `out`."""
    file, generator = out / "teacher.safetensors", rng.generator(0, "architectures", "teacher")
    if file.exists():
        net: nn.Module = create_net(
            "convnet3", width=JUDGE.width, channels=channels, classes=len(classes), size=SIZE, generator=generator
        )
        net.load_state_dict(load(file.read_bytes()))
    else:
        net = JUDGE.fit(
            *real_images(data, "train", channels, classes), classes=len(classes), network="convnet3",
            generator=generator, device=torch.device("cpu"),
        )  # fmt: skip
        write_atomic(file, save({name: value.contiguous() for name, value in net.state_dict().items()}))
    images, labels = map(torch.tensor, real_images(data, "test", channels, classes))
    print(f"teacher: {100 * accuracy(net, images, labels, torch.device('cpu')):.2f} % on the test images", flush=True)
    half = [0.5] * channels  # its images are in [-1, 1]
    return Teacher(net, name="teacher", outputs=len(classes), channels=channels, size=SIZE, mean=half, std=half)


def outcome(part: Part, out: Path, data: Data) -> Record:
    """Make a set, or train on it."""
    record: Record = part._asdict()
    start = time.process_time()
    method, *options = part.method.removesuffix(THROUGH_VAE).split()
    distilled = dap.distill(
        data.source, prior=data.prior, method=method, method_options=parse_assignments(options), ipc=part.ipc,
        seed=part.seed, out=part.folder(out), progress=False,
    )  # fmt: skip
    if part.network:
        pixels, labels = distilled.to_torch()
        if part.method.endswith(THROUGH_VAE):
            prior = load_prior(data.prior)
            pixels = prior.decode(encode_images(prior, pixels))
        channels, classes = pixels.shape[1], distilled.class_names
        soft = {"teacher": teacher(out, data, channels, classes)} if part.labels == "soft" else {}
        start = time.process_time()
        trained = run_protocol(
            pixels.numpy(), labels.numpy(), *real_images(data, "test", channels, classes), classes=len(classes),
            network=part.network, seed=part.seed, device="cpu", protocol="rded" if soft else "small",
            protocol_options=SOFT if soft else HARD, **soft,
        )  # fmt: skip
        record["last"] = round(trained.last, 4)
    return record | {"seconds": round(time.process_time() - start, 2)}


def seconds_by_kind(records: list[Record]) -> dict[str, float]:
    """Return the processor seconds of each kind of part: the median of those in OUT, else those of the file."""
    measured: dict[str, list[float]] = {}
    for record in records:
        measured.setdefault(Part.of(record).kind, []).append(float(record["seconds"]))
    return SECONDS | {kind: float(np.median(values)) for kind, values in measured.items()}


def read(out: Path) -> list[Record]:
    return [record for log in sorted(out.glob("outcomes*.jsonl")) for record in Ledger(log).read()]


def left(todo: list[Part], seconds: dict[str, float]) -> str:
    """Return how much is left, in words."""
    unknown = sorted({part.kind for part in todo} - set(seconds))
    hours = sum(seconds.get(part.kind, 0.0) for part in todo) / 3600
    return f"{len(todo)} parts, {hours:.2f} hours of one core" + (f", and {', '.join(unknown)}" if unknown else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the sets and outcomes")
    parser.add_argument("--table", type=Path, help="file of the tables, Markdown")
    parser.add_argument("--plot", type=Path, help="file of the picture")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 8), help="first seed, and the one after the last")
    parser.add_argument("--others", type=int, help="seeds of the other networks; half of all seeds if left out")
    parser.add_argument("--ipc", type=int, nargs="+", default=METHODS, help="images a class; 10 and 50 if left out")
    parser.add_argument("--only", nargs="+", default=(), metavar="METHOD", help="each with its options, in quotes")
    parser.add_argument("--source", default=Data().source, help="images to distil")
    parser.add_argument("--test", default="", help="images to test on; the split test of the source if left out")
    parser.add_argument("--prior", default=Data().prior)
    parser.add_argument("--part", default="1/1", help="i/n: this process does every n-th seed")
    args = parser.parse_args()
    first, of = map(int, args.part.split("/"))
    seeds = range(*args.seeds)
    others = seeds[: -(-len(seeds) // 2) if args.others is None else args.others]
    methods = {ipc: args.only or METHODS[min(METHODS, key=lambda size: abs(size - ipc))] for ipc in args.ipc}
    data = Data(args.source, args.test, args.prior)
    (args.out / "sets").mkdir(parents=True, exist_ok=True)
    data.claim(args.out)
    os.environ["DAP_CACHE"] = str(args.out / f"cache{first}")
    torch.set_num_threads(1)
    done = {Part.of(record) for record in read(args.out)}
    todo = [part for part in parts(seeds[first - 1 :: of], others, methods) if part not in done]
    print(f"left: {left(todo, seconds_by_kind(read(args.out)))}", flush=True)
    for number, part in enumerate(todo):
        if number and part.seed != todo[number - 1].seed:
            shutil.rmtree(cache_folder() / "indexes", ignore_errors=True)  # of the last seed's references
        record = outcome(part, args.out, data)
        Ledger(args.out / f"outcomes{first}.jsonl").append(record)
        result = f"{record['last']:.2f} %" if part.network else "set"
        rest = left(todo[number + 1 :], seconds_by_kind(read(args.out)))
        print(f"{' '.join(map(str, part))}: {result} in {record['seconds']:.0f} s; left: {rest}", flush=True)
    outcomes = [record for record in read(args.out) if record["method"] in methods.get(record["ipc"], ())]
    shown = list(dict.fromkeys(method for names in methods.values() for method in names))
    text = markdown(outcomes, shown)
    print(text)
    if args.table:
        write_atomic(args.table, f"{text}\n".encode())
    if args.plot:
        plot(outcomes, shown, args.plot)


if __name__ == "__main__":
    main()
