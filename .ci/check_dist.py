"""Checks what a wheel and a source distribution hold, how large they are, and the licences of the crates in the wheel.

python .ci/check_dist.py FOLDER
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import zipfile
from pathlib import Path

WHEEL_MB, SOURCE_MB = 26, 26
LICENCES = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "MIT", "Unicode-3.0", "Unlicense", "Zlib",
}  # fmt: skip
WHEEL = ("dap/_core.abi3.so", "dap/_core.pyi", "dap/py.typed", "fashion_dit/model_index.json", "train-images.idx.xz")
SOURCE = (
    "Cargo.lock",
    "CITATION.cff",
    "mkdocs.yml",
    "docs/methods/dap.png",
    "docs/_site/hooks.py",
    "tests/test_docs.py",
)


def megabytes(path: Path, most: int) -> str:
    size = path.stat().st_size / 2**20
    assert size < most, f"{path.name} has {size:.1f} MB, expected less than {most}"
    return f"{path.name}: {size:.1f} MB"


def check_wheel(path: Path) -> None:
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (sbom,) = (json.loads(wheel.read(name)) for name in names if name.endswith(".cyclonedx.json"))
    missing = [part for part in WHEEL if not any(name.endswith(part) for name in names)]
    assert not missing, f"{path.name} lacks {missing}"
    benches = [name for name in names if "bench" in name]
    assert not benches, f"{path.name} holds benches: {benches}"
    licences = {crate["name"]: crate["licenses"][0]["expression"] for crate in sbom["components"]}
    unknown = {name: text for name, text in licences.items() if not allowed(text)}
    assert not unknown, f"crates whose licences nobody has looked at: {unknown}"
    print(f"{megabytes(path, WHEEL_MB)}, {len(names)} files, {len(licences)} crates")


def allowed(expression: str) -> bool:
    """Return whether each part of an SPDX expression leaves a licence of the list."""
    parts = [part.strip(" ()") for part in re.split(r"\bAND\b", expression)]
    return all(set(re.split(r" OR ", part)) & LICENCES for part in parts)


def check_source(path: Path) -> None:
    with tarfile.open(path) as source:
        names = [name.partition("/")[2] for name in source.getnames()]
    missing = sorted({*SOURCE} - {*names})
    assert not missing, f"{path.name} lacks {missing}"
    print(f"{megabytes(path, SOURCE_MB)}, {len(names)} files")


def main() -> None:
    wheels, sources = (sorted(Path(sys.argv[1]).glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    assert wheels, f"no wheel in {sys.argv[1]}"
    assert len(sources) == 1, f"expected one source distribution in {sys.argv[1]}, found {len(sources)}"
    for wheel in wheels:
        check_wheel(wheel)
    check_source(sources[0])


if __name__ == "__main__":
    main()
