"""A small feature index of three classes, and the headers of its files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from dap.index import ClassRows, IndexSpec, IndexWriter, row_groups

SPEC = IndexSpec(
    source={"name": "toy", "identity": "0" * 64}, prior="1" * 64, block=4, pooling="mean", timesteps=(980, 500, 12345),
    feature_shape=(5,), latent_shape=(2, 3, 1), scheduler=None, num_inference_steps=50,
)  # fmt: skip
ROWS = {"T-shirt/top": 600, "Drêss": 257, "none": 0}
FEATURES, LATENTS = "features.safetensors", "latents.safetensors"
SHIRT = "T-shirt%2Ftop"


def values(name, timestep, rows, shape):
    """What the toy index holds, float64; another array for each class and timestep."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {timestep}".encode()).digest()[:4], "big")
    return np.random.default_rng(seed).standard_normal((rows, *shape))


def toy_classes(shard=None):
    classes = []
    for label, (name, rows) in enumerate(ROWS.items()):
        ids = [f"train/{row}\udc80" for start, stop in row_groups(rows, shard) for row in range(start, stop)]
        classes.append(ClassRows(name, label if label else None, tuple(ids)))
    return classes


def fill(writer, limit=None):
    """Writes what is pending, at most ``limit`` groups."""
    for each in writer.classes:
        whole = np.concatenate([np.arange(*group) for group in row_groups(ROWS[each.name], writer.spec.shard)] or [[]])
        for start, stop in writer.pending(each.name):
            if limit == 0:
                return
            limit = limit and limit - 1
            rows = whole[start:stop].astype(int)
            latents = values(each.name, "z", ROWS[each.name], SPEC.latent_shape)[rows]
            features = {t: values(each.name, t, ROWS[each.name], SPEC.feature_shape)[rows] for t in SPEC.timesteps}
            writer.write(each.name, start, latents, features)


def build(out, **changes):
    spec = dataclasses.replace(SPEC, **changes)
    writer = IndexWriter(out, spec, toy_classes(spec.shard))
    fill(writer)
    return writer.finish()


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def header(tensors):
    text = json.dumps(tensors).encode() if isinstance(tensors, dict) else tensors
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text


def tensor(shape, begin, end, dtype="F16"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def flip(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


@pytest.fixture(scope="module", name="whole")
def fixture_of_whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("index") / "whole"
    build(out)
    return out


@pytest.fixture(name="copied")
def fixture_of_copied(whole, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "copied"))
