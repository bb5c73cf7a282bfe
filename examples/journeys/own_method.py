"""A method of one's own, compared with four others under two protocols: python own_method.py [FOLDER]

It writes the sets, the results and a LaTeX table for each protocol into FOLDER. docs/extending.md explains how a method
is written, docs/tutorials/compare.md how methods are compared.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

import dap
from dap.evaluation import compare

CLASSES = ["Dress", "Bag", "Sneaker"]
PROTOCOLS = {  # small, so that this runs in seconds: leave protocol_options out for numbers that count
    "small": {"protocol": "small", "protocol_options": {"few_steps": 30, "checks": 1}},
    "hard": {"protocol": "hard", "protocol_options": {"epochs": 2, "size": 32}},
}


@dap.register_method
@dataclass(frozen=True)
class Typical(dap.methods.Method[dict[str, list[int]]]):
    """The real images that are nearest to the mean of their class, pixel by pixel."""

    name: ClassVar[str] = "typical"
    paper: ClassVar[str] = "an example"
    year: ClassVar[int | None] = None
    needs: ClassVar[tuple[str, ...]] = ("labels",)
    couples: ClassVar = "class"
    presets: ClassVar = {}

    def prepare(self, context):
        chosen = {}
        for label, entry in enumerate(context.classes):
            indices = context.source.of_class(label)
            rows = context.images(indices).flatten(1).float()
            order = (rows - rows.mean(0)).norm(dim=1).argsort()
            chosen[entry.name] = indices[order[: context.ipc_of(label)].numpy()].tolist()
        return chosen

    def make(self, context, unit, artefact):
        names = [context.classes[slot.class_index].name for slot in unit.slots]
        return context.images([artefact[name][slot.number] for name, slot in zip(names, unit.slots, strict=True)])

    def record(self, context, artefact):
        return {"images": {name: [context.source.ids[i] for i in rows] for name, rows in artefact.items()}}


def main(folder: Path) -> None:
    methods = {"random": {}, "typical": {}, "k_medoids": {"features": "pixels"}, "herding": {"features": "pixels"}}
    methods["dit"] = {"num_inference_steps": 5}
    sets = {
        name: dap.distill(
            "fashion-mini", method=name, classes=CLASSES, ipc=2, out=folder / name, progress=False, **options
        )
        for name, options in methods.items()
    }
    test = dap.open_source("fashion-mini", split="test", classes=CLASSES)
    test = test.select(np.arange(0, len(test), 50))
    for protocol, options in PROTOCOLS.items():
        results = {name: dap.evaluate(distilled, test, repeats=2, **options) for name, distilled in sets.items()}
        table = compare(results).table("latex")
        (folder / f"{protocol}.tex").write_text(table)
        print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
