"""The parts of an index: the options that its bytes depend on, its rows, its size, its file names."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError

__all__ = ["GROUP_ROWS", "ClassRows", "FloatArray", "IndexSpec", "index_bytes", "row_groups"]

FloatArray: TypeAlias = npt.NDArray[np.float16 | np.float32]

SCHEMA = 1
BLOCK_BYTES = 2**20  # of each of which index.json has the SHA-256
GROUP_ROWS = 256  # rows of a class that are computed, recorded and dealt to shards together
INDEX, LEDGER = "index.json", ".ledger.jsonl"
FEATURES, LATENTS, IDS = "features.safetensors", "latents.safetensors", "ids.json"
DTYPES = {"float16": "F16", "float32": "F32"}  # NumPy's name and safetensors'
ITEM_BYTES = {"float16": 2, "float32": 4}
MAX_VALUES = 2**48  # of one row or one file: beyond any disk, and far from overflow
MAX_TIMESTEP = 10**6
USUAL = "float32"  # the dtype in which features are computed, where an index does not say it
CHOICES = {
    "conditioning": ("class",),
    "noise": ("own", "shared"),
    "dtype": tuple(DTYPES),
    "latent_dtype": tuple(DTYPES),
}


@dataclass(frozen=True)
class IndexSpec:
    """The options that the content of an index depends on, beside its rows. Indexes of equal specs can be merged.

    Attributes:
        source: Name and identity of the source of the images: ``{"name": …, "identity": …}``.
        prior: Hash of the prior's weights and configuration, as the manifest has it.
        block: Number of the denoiser's block at which features are taken, from 1.
        pooling: How tokens become one vector: "mean", "flat", "grid4", "sketch256", … (the name is all that is kept).
        timesteps: t of each feature tensor, in the order of the tensors; no t twice.
        feature_shape: (D,).
        latent_shape: (C, h, w).
        scheduler: Name of the scheduler whose ``add_noise`` was used; None for the prior's own.
        num_inference_steps: Its number of steps.
        conditioning: "class": features are taken under the label of the image's class.
        noise: "own" noise for each image and timestep, or "shared" by all images of a timestep.
        seed: Root seed of the noise, in [0, 2**63).
        dtype: Of the features: "float16" or "float32".
        latent_dtype: Of the latents: "float16" or "float32".
        shard: (i, n) for part i of n, i from 1, whose classes hold every n-th group of rows; None for the whole.
        computed_in: The dtype in which the prior computed the features, such as "bfloat16", or "tf32".

    Raises:
        OptionError: A value of another type or outside its range.

    Example:
        >>> spec = IndexSpec({"name": "a", "identity": "0"}, "0", 4, "mean", (980, 500), (8,), (4, 2, 2), None, 50)
        >>> spec.dtype, spec.to_json()["timesteps"]
        ('float16', [980, 500])
    """

    source: Mapping[str, str]
    prior: str
    block: int
    pooling: str
    timesteps: tuple[int, ...]
    feature_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    scheduler: str | None
    num_inference_steps: int
    conditioning: str = "class"
    noise: str = "own"
    seed: int = 0
    dtype: str = "float16"
    latent_dtype: str = "float16"
    shard: tuple[int, int] | None = None
    computed_in: str = USUAL

    def __post_init__(self) -> None:
        source = self.source
        _expect("source", source, isinstance(source, Mapping) and set(source) == {"name", "identity"}, "name, identity")
        for name, text in (
            *source.items(),
            ("prior", self.prior),
            ("pooling", self.pooling),
            ("computed_in", self.computed_in),
        ):
            _expect(name, text, isinstance(text, str), "text")
        _expect("scheduler", self.scheduler, isinstance(self.scheduler, str | None), "text or None")
        for name, allowed in CHOICES.items():
            _expect(name, getattr(self, name), getattr(self, name) in allowed, " or ".join(allowed))
        for name, least, limit in (("block", 1, 2**31), ("num_inference_steps", 1, 2**31), ("seed", 0, 2**63)):
            _expect(name, getattr(self, name), _is_whole(getattr(self, name), least, limit), f"{least} or more")
        times, shard = self.timesteps, self.shard
        distinct = _are_whole(times, 0, MAX_TIMESTEP) and len(set(times)) == len(times) > 0
        _expect("timesteps", times, distinct, f"different whole numbers in [0, {MAX_TIMESTEP})")
        for name, size, dimensions in (
            ("feature_shape", self.feature_shape, 1),
            ("latent_shape", self.latent_shape, 3),
        ):
            fits = _are_whole(size, 1, MAX_VALUES) and len(size) == dimensions and math.prod(size) < MAX_VALUES
            _expect(name, size, fits, f"{dimensions} positive whole numbers")
        parts = shard is None or (_are_whole(shard, 1, 2**31) and len(shard) == 2 and shard[0] <= shard[1])
        _expect("shard", shard, parts, "(i, n) with 1 <= i <= n, or None")

    def to_json(self) -> dict[str, object]:
        """Return the fields as ``index.json`` has them: tuples as lists, ``computed_in`` only if it is not float32."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.computed_in == USUAL:
            del values["computed_in"]  # earlier versions of dap know no other
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def row_bytes(self) -> tuple[int, int]:
        """Return the bytes of one image's features, all timesteps together, and those of its latent."""
        features = len(self.timesteps) * math.prod(self.feature_shape) * ITEM_BYTES[self.dtype]
        return features, math.prod(self.latent_shape) * ITEM_BYTES[self.latent_dtype]


@dataclass(frozen=True)
class ClassRows:
    """The rows of one class.

    Attributes:
        name: Its name.
        label: The prior's label, or None.
        ids: The source's image id of each row, in the source's order; of a part, the ids of that part's rows.
    """

    name: str
    label: int | None
    ids: tuple[str, ...]


def row_groups(rows: int, shard: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    """Return the rows (start, stop) of each group of a class: those that are computed together.

    Args:
        rows: Rows of the whole class.
        shard: (i, n) for every n-th group from the i-th on, i from 1; None for all groups.

    Example:
        >>> row_groups(600)
        [(0, 256), (256, 512), (512, 600)]
        >>> row_groups(600, (2, 2))
        [(256, 512)]
    """
    first, step = shard or (1, 1)
    return [
        (start, min(start + GROUP_ROWS, rows)) for start in range((first - 1) * GROUP_ROWS, rows, step * GROUP_ROWS)
    ]


def index_bytes(spec: IndexSpec, rows: Sequence[int]) -> int:
    """Return about how many bytes an index takes on disk, without the image ids and ``index.json``.

    Args:
        spec: Its spec.
        rows: Number of rows of each class.

    Example:
        >>> spec = IndexSpec({"name": "a", "identity": "0"}, "0", 4, "mean", (980, 500), (8,), (4, 2, 2), None, 50)
        >>> index_bytes(spec, [1000, 2000])
        192768
    """
    features, latents = spec.row_bytes()
    headers = len(rows) * (-(-(64 + 96 * len(spec.timesteps)) // 64) * 64 + 128)
    return headers + sum(rows) * (features + latents)


def tensor_name(timestep: int) -> str:
    """Return the name of a timestep's tensor, such as "t0980"."""
    return f"t{timestep:04d}"


def dump(value: object) -> bytes:
    """Return JSON in ASCII: so any name that a file system or a dataset has can be written, lone surrogates too."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode("ascii")


def _is_whole(value: object, least: int, limit: int) -> bool:
    return type(value) is int and least <= value < limit


def _are_whole(values: object, least: int, limit: int) -> bool:
    return isinstance(values, tuple) and all(_is_whole(value, least, limit) for value in values)


def _expect(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise OptionError(f"{name}: expected {expected}, got {str(value)[:100]!r}")
