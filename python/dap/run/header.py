"""What the manifest of a run says before anything is made: options, source, prior, classes, versions and licences."""

from __future__ import annotations

import platform
from collections.abc import Collection
from importlib.metadata import version
from typing import TYPE_CHECKING

from dap._core import build_info
from dap.config import to_json
from dap.data import classmap
from dap.data.manifest import SCHEMA

if TYPE_CHECKING:
    from dap.run.job import Job

__all__ = ["described_sources", "header_of"]


def header_of(job: Job) -> dict[str, object]:
    """Return what the manifest of a job records before anything is made."""
    prior = job.prior
    sampled: dict[str, object] = {
        "sampling": job.settings.to_json(), "device": prior.device.type, "dtype": str(prior.dtype),
    }  # fmt: skip
    # said where they are not the usual, so that a run of a version without them is continued
    more: dict[str, object] = {} if prior.vae_dtype in (None, prior.dtype) else {"vae_dtype": str(prior.vae_dtype)}
    if job.tf32:
        more["tf32"] = True
    versions = dict(job.recipe.versions())
    return {
        "schema": SCHEMA,
        "options": {
            "method": to_json(job.recipe), "seed": job.request.seed,
            "size": None if job.shape.own else job.shape.size, "channels": job.shape.channels,
            **(sampled | more if job.samples else dict.fromkeys(sampled)),
            **({"method_versions": versions} if versions else {}),
            **({} if job.encoder is None else {"features": dict(job.encoder.describe())}),
        },
        "source": described_sources(job)[0],
        "index": None if job.index is None else {"sha256": job.index.hash, **job.index.spec.to_json()},
        "prior": prior.describe() if job.samples else None,
        "class_map": classmap.to_json(job.classes),
        "versions": _versions(),
        **_licenses(job),
    }  # fmt: skip


def described_sources(job: Job, names: Collection[str] | None = None) -> list[dict[str, object]]:
    """Return what the manifest of a run of some of a job's classes may say of the source; by default of all of them."""
    if job.index is not None:
        chosen = [entry.name for entry in job.classes if names is None or entry.name in names]
        return [{**job.index.spec.source, "images": sum(job.index.of_class(name).rows for name in chosen)}]
    if names is None or job.whole is None:
        return [{"name": job.source.name, "identity": job.source.identity(), "images": len(job.source)}]
    images = len(job.source.subset(names))
    identities = job.whole.identities_of(names)
    return [{"name": job.source.name, "identity": identity, "images": images} for identity in identities]


def _licenses(job: Job) -> dict[str, object]:
    """Return an entry with the licences that are known, of the prior and of the source."""
    licenses = {"prior": job.prior.license if job.samples else None, "source": job.source.license}
    known = {name: license for name, license in licenses.items() if license}
    return {"licenses": known} if known else {}


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "diffusers", "numpy", "Pillow")}
    return {"dap": build_info()["version"], "python": platform.python_version(), **packages}
