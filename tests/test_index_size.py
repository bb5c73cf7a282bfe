"""An index of ImageNet's size."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from toy_index import FEATURES, LATENTS, SPEC, header, tensor

from dap.index import open_index


def synthetic(out, classes, rows, columns, timesteps):
    """An index of sparse files: names, headers and sizes are true, hashes are not."""
    spec = dataclasses.replace(
        SPEC, feature_shape=(columns,), latent_shape=(4, 32, 32), timesteps=tuple(range(timesteps))
    )
    out.mkdir()
    entries = []
    for number in range(classes):
        folder = out / f"n{number:08d}"
        folder.mkdir()
        files = {
            FEATURES: [(f"t{t:04d}", "F16", [rows, columns]) for t in spec.timesteps],
            LATENTS: [("latents", "F16", [rows, *spec.latent_shape])],
        }
        records = {"ids.json": {"bytes": 0, "blocks": []}}
        (folder / "ids.json").touch()
        for name, tensors in files.items():
            entry = {}
            end = 0
            for tensor_name, dtype, shape in tensors:
                entry[tensor_name] = tensor(shape, end, end := end + 2 * int(np.prod(shape)), dtype)
            start = header(entry)
            with (folder / name).open("wb") as file:
                file.write(start)
                file.truncate(len(start) + end)
            size = len(start) + end
            records[name] = {"bytes": size, "blocks": [f"{number:064x}"] * -(-size // 2**20)}
        entries.append({"name": folder.name, "label": number, "folder": folder.name, "rows": rows, "files": records})
    values = {"schema": 1, **spec.to_json(), "block_bytes": 2**20, "classes": entries}
    (out / "index.json").write_text(json.dumps(values, indent=1))


def resident(name):
    """Bytes of the maps of files below a folder that are in this process's memory, from /proc/self/smaps."""
    total, counting = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counting = name in line
        elif counting and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_an_index_of_imagenets_size_opens_at_once_and_reads_what_is_looked_at(tmp_path):
    """1.28 million rows of 1,152 numbers at 8 timesteps, 1,000 classes, 34 GB; the files are sparse."""
    synthetic(tmp_path / "big", classes=1000, rows=1280, columns=1152, timesteps=8)
    opened, parsed, text = [], [], (tmp_path / "big" / "index.json").read_bytes()
    for _ in range(10):  # in turns, in processor time, which is not that of other processes
        start = time.process_time()
        index = open_index(tmp_path / "big")
        opened.append(time.process_time() - start)
        start = time.process_time()
        json.loads(text)
        parsed.append(time.process_time() - start)
    print(f"opened in {min(opened) * 1e3:.0f} ms, its JSON alone is parsed in {min(parsed) * 1e3:.0f} ms (best of 10)")
    assert len(index) == 1_280_000 and min(opened) < 10 * min(parsed)  # seen: 6 times
    view = index.features("n00000500", 3)
    assert view.nbytes == 1280 * 1152 * 2 and resident(str(tmp_path)) == 0
    assert view[:100].max() == 0
    touched = 100 * 1152 * 2
    assert touched * 0.9 < resident(str(tmp_path)) < touched + 2**18  # the kernel maps a few pages around a fault
    assert view.max() == 0
    print(f"a view of {view.nbytes} bytes holds {resident(str(tmp_path))} bytes in memory")
    assert view.nbytes * 0.99 < resident(str(tmp_path)) < view.nbytes + 2**18
    assert resident("n00000500") == resident(str(tmp_path))


# Export
