"""The images of a run's folder, read as a source: only those of a finished run, and only those in its manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dap.data.manifest import MANIFEST, check_finished, images_of, read_manifest
from dap.data.source import Source

__all__ = ["images_of_run", "run_of"]


def run_of(path: Path) -> tuple[Path, Mapping[str, object]] | None:
    """Return folder and manifest of the finished run to which a folder, or a folder "train", belongs; None for others.

    Raises:
        SourceError: The run was not finished, or images of it are gone.
        FormatError: The manifest is damaged.
    """
    out = path.parent if path.name == "train" and not (path / MANIFEST).exists() else path
    manifest = read_manifest(out)
    if manifest is None:
        return None
    check_finished(out, manifest)
    return out, manifest


def images_of_run(source: Source, path: Path, out: Path, manifest: Mapping[str, object]) -> Source:
    """Return those images of a folder that a run made: somebody may have put others beside them.

    Args:
        source: The images below ``path``.
        path: The folder that was opened.
        out: The folder of the run.
        manifest: Its manifest.
    """
    names = {Path(os.path.relpath(out / file, path)).as_posix() for file in images_of(manifest)}
    chosen = [index for index, name in enumerate(source.ids) if name in names]
    if len(chosen) == len(source):
        return source
    labels = sorted({int(source.labels[index]) for index in chosen})
    return source.select(chosen).subset([source.class_names[label] for label in labels])
