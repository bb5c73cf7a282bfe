"""The JSON that dap writes, as rows of the matrix of ``hostile.py``: small folders, and what reads them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from hostile import Parser
from PIL import Image

import dap
from dap.data.manifest import LEDGER
from dap.data.packing import write_packed
from dap.data.records import Records
from dap.data.shard_writer import Sample
from dap.index import ClassRows, IndexSpec, IndexWriter
from dap.priors import BUILTIN
from dap.priors.adapter import write_adapter
from dap.storage.files import write_json
from dap.storage.ledger import Ledger

DEEP = b'{"a":' * 10**6 + b"\n"  # too deep for a parser that recurses
Made: TypeAlias = tuple[str, str, str]
"""The damaged file, what its reader has to import, and the reader's call."""

HASH = "0123456789abcdef" * 4


def run(folder: Path) -> Made:
    for name in ("cat", "dog"):
        (folder / "real" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "real" / name / "0.png")
    dap.distill(folder / "real", method="random", ipc=1, out=folder / "run", progress=False)
    shutil.rmtree(folder / "real")
    return "run/dap.json", "import dap, dap.api", "dap.load(folder + '/run')"


def ledger(folder: Path) -> Made:
    for number in range(3):
        Ledger(folder / LEDGER).append({f"train/cat/{number:05d}.png": HASH})
    return LEDGER, "from dap.data.manifest import read_ledger", "read_ledger(Path(folder))"


def records(folder: Path) -> Made:
    for number in range(3):
        files = {f"train/cat/{number:05d}.png": HASH}
        Records(folder, "worker").append({"unit": number, "files": files, "seconds": {"make": 0.1}, "threads": 1})
    return "worker.jsonl", "from dap.data.records import Records", "Records(Path(folder), 'other').new()"


def packed(folder: Path) -> Made:
    samples = [Sample("cat/00000", 0, lambda: np.zeros((1, 8, 8), np.uint8))]
    record = write_packed(samples, folder, format="webdataset", class_names=["cat"], provenance={})
    header = {key: record[key] for key in record if key not in ("schema", "status", "files", "images", "skipped")}
    return "pack.json", "from dap.data.pack_record import PackRecord", f"PackRecord(Path(folder), {header!r})"


def index(folder: Path) -> Made:
    spec = IndexSpec({"name": "photos", "identity": HASH}, HASH, 1, "mean", (500,), (4,), (1, 2, 2), None, 50)
    writer = IndexWriter(folder, spec, [ClassRows("cat", 0, ("0.png", "1.png"))])
    writer.write("cat", 0, np.zeros((2, 1, 2, 2), np.float32), {500: np.zeros((2, 4), np.float32)})
    writer.finish()
    return "index.json", "import dap, dap.index", "dap.open_index(folder)"


def ids(folder: Path) -> Made:
    index(folder)
    return "cat/ids.json", "import dap, dap.index", "dap.open_index(folder).ids('cat')"


def pipeline(folder: Path) -> Made:
    shutil.copy(BUILTIN["fashion-dit"] / "model_index.json", folder)
    imports = "from dap.priors.hub import Files; from dap.priors.pipeline_folder import label_names_of, pipeline_type"
    return "model_index.json", imports, "pipeline_type(Files(folder)), label_names_of(Path(folder))"


def recommended(folder: Path) -> Made:
    shutil.copy(BUILTIN["fashion-dit"] / "dap_prior.json", folder)
    return "dap_prior.json", "from dap.priors.pipeline_folder import read_recommended", "read_recommended(Path(folder))"


def adapter(folder: Path) -> Made:
    write_adapter(folder, "base", HASH, {"cat": torch.zeros(1, 4), "dog": torch.ones(1, 4)}, {}, 0)
    imports = "from dap.priors.adapter import load_adapted, ADAPTER\n"
    imports += "def base(name): raise SourceError(f'{ADAPTER}: no prior {name!r}')\n"
    return "dap_adapter.json", imports, "load_adapted(folder, base)"


def training(folder: Path) -> Made:
    identity = {"source": HASH, "steps": 100, "classes": ["cat", "dog"]}
    write_json(folder / "training.json", identity)
    return "training.json", "from dap.training.folder import check_folder", f"check_folder(Path(folder), {identity!r})"


MAKERS: dict[str, Callable[[Path], Made]] = {
    "dap.json": run,
    "the ledger of a run": ledger,
    "the ledger of a worker": records,
    "pack.json": packed,
    "index.json": index,
    "ids.json": ids,
    "model_index.json": pipeline,
    "dap_prior.json": recommended,
    "dap_adapter.json": adapter,
    "training.json": training,
}


def record(name: str) -> Parser:
    """Return a row: its files are made anew."""
    with tempfile.TemporaryDirectory() as place:
        damaged, imports, code = MAKERS[name](Path(place))
        files = {str(path.relative_to(place)): path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}
    return Parser(files, damaged, ".", DEEP, code, imports)
