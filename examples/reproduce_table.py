"""Runs the methods of a published table under its protocol, and prints the published numbers beside. Resumable.

    python examples/reproduce_table.py --table dap3 --imagenet imagenet --prior facebook/DiT-XL-2-256 --out runs/dap3
    python examples/reproduce_table.py --table dap5 --imagenet imagenet --prior facebook/DiT-XL-2-256 --out runs/dap5 \
        --weights resnet18-f37072fd.pth
    python examples/reproduce_table.py --table fashion --out runs/fashion

dap3: ImageNette and ImageWoof, 10, 50 and 100 images a class, three networks, protocol `hard`. dap5: ImageNet-1K, 50
    images a class, networks of other kinds, labels of torchvision's ResNet-18.
    IMAGENET has `train` and `val` with a folder for each WordNet id; the fastai versions of ImageNette and ImageWoof
    divide the images otherwise.
fashion: the same run on three classes of the built-in images, with 4 steps of the built-in prior and 5 epochs.

"Theirs" is the number as printed: the best accuracy of each training, ± their standard deviation. Ours are the best of
so many, as theirs, and the last, ± the standard error of the repeats. Random real images stand beside under the same
protocol and, where there is one, with the same teacher. Sets, outcomes and checkpoints are kept in OUT.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from published_tables import TABLES, Table

import dap
from dap.evaluation import EvaluationResult, Row, Summary
from dap.storage.files import write_atomic

UNKNOWN = "not known here"


def sources(args: argparse.Namespace, name: str, classes: tuple[str, ...] | None) -> tuple[Any, Any]:
    """Return the training and the test images of a set."""
    if args.imagenet is None:
        return tuple(dap.open_source(name, split=split, classes=classes) for split in ("train", "test"))
    return tuple(dap.open_source(args.imagenet / split, classes=classes) for split in ("train", "val"))


def results(args: argparse.Namespace, table: Table) -> Iterator[tuple[str, int, str, EvaluationResult]]:
    """Make and evaluate one set after the other; what OUT has is not done again."""
    weights = {} if args.weights is None else {"weights": str(args.weights)}
    for name, classes in table.sets.items():
        train, test = sources(args, name, classes)
        for ipc in table.ipc:
            for method in args.methods or table.methods:
                distilled = dap.distill(
                    train, prior=args.prior, method=method, ipc=ipc, seed=args.seed, dtype=args.dtype,
                    device=args.device, out=args.out / "sets" / f"{name}-{ipc}-{method.replace(':', '-')}",
                    **table.sampling,
                )  # fmt: skip
                yield name, ipc, method, dap.evaluate(
                    distilled, test, real=train, protocol=table.protocol, protocol_options=table.protocol_options,
                    networks=table.networks, repeats=args.repeats, seed=args.seed, device=args.device,
                    teacher=table.teacher, teacher_options=weights, checkpoints=args.out / "trainings",
                )  # fmt: skip


def lines(table: Table, name: str, ipc: int, method: str, result: EvaluationResult) -> Iterator[str]:
    """Return the rows of a set in Markdown: random real images, then the method, for each network."""
    for row in result.rows:
        shown = "random" if row.set_name == "random real" else method
        theirs = table.theirs.get((name, row.network, ipc, shown.partition(":")[0]), UNKNOWN)
        yield f"| {name} | {ipc} | {row.network} | `{shown}` | {theirs} | {best(row)} | {accuracy(row.last_summary)} |"


def best(row: Row) -> str:
    return f"{accuracy(row.best_summary)} of {row.checks}"


def accuracy(found: Summary) -> str:
    return f"{found.mean:.1f}" + (f" ± {found.standard_error:.1f}" if found.n > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=TABLES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the sets and outcomes, and of table.md")
    parser.add_argument("--imagenet", type=Path, help="folder of train/ and val/")
    parser.add_argument("--prior", default="fashion-dit")
    parser.add_argument("--weights", type=Path, help="file of the teacher's weights for dap5, else torchvision's")
    parser.add_argument("--methods", nargs="+", help="methods of dap, with presets; default: those of the table")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", help="of the prior: bfloat16")
    parser.add_argument("--device")
    args = parser.parse_args()
    table = TABLES[args.table]
    if (args.imagenet is None) == (args.table != "fashion"):
        parser.error("--imagenet DIR is needed for the tables of ImageNet, and for these only")
    if "random" in (args.methods or ()):
        parser.error("--methods random: random real images stand beside every method, leave it out")
    if args.weights is not None and table.teacher is None:
        parser.error(f"--weights: table {args.table} has no teacher")
    changes = "".join(f", {name}={value}" for name, value in table.protocol_options.items())
    protocol = f"Protocol {table.protocol}{changes}, {args.repeats} repeats, seed {args.seed}."
    text = [
        f"{table.title} ({table.source}). {protocol}",
        "",
        "| images | a class | network | method | theirs | ours, best of k checks | ours, last |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(text))
    for name, ipc, method, result in results(args, table):
        new = [line for line in lines(table, name, ipc, method, result) if line not in text]
        text += new
        print("\n".join(new), flush=True)
        write_atomic(args.out / "table.md", ("\n".join(text) + "\n").encode())


if __name__ == "__main__":
    main()
