"""Checks that an index fits a run, and the source of a run that has an index but no images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from dap.data.appearance import Appearance
from dap.data.source import Source
from dap.errors import OptionError
from dap.features.index_options import prior_hash
from dap.features.pooling import Tap
from dap.registry import unknown_name_error

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from dap.index import Index
    from dap.priors import Prior

__all__ = ["check_prior", "check_references", "check_source", "class_names", "source_of_index"]


def check_source(index: Index, source: Source) -> None:
    """Raise unless an index was built from the images of ``source``, which must have all of its classes.

    Raises:
        OptionError: The identities differ.
    """
    got, expected = source.identity(), index.spec.source["identity"]
    if got != expected:
        raise OptionError(
            f"index {index.path} was built from {index.spec.source['name']!r} with identity {expected[:12]}…, the "
            f"source {source.name!r} has {got[:12]}…: its images changed, or it is another one; build the index again"
        )


def check_prior(index: Index, prior: Prior) -> None:
    """Raise unless an index was built with this prior.

    Raises:
        OptionError: The hashes of the priors differ.
    """
    _check(index, {"prior": prior_hash(prior)})


def check_references(index: Index, tap: Tap, scheduler: SchedulerMixin, noise: str) -> None:
    """Raise unless the features of an index are those that a run needs.

    Args:
        index: The index.
        tap: Where the run takes its features.
        scheduler: The run's diffusers scheduler.
        noise: "own" or "shared".

    Raises:
        OptionError: The index is one part of several, or an option differs; the message names each one.
    """
    if index.spec.shard is not None:
        part, parts = index.spec.shard
        raise OptionError(f"index {index.path} is part {part} of {parts}: join the parts with dap index merge first")
    _check(index, {
        "block": tap.block, "pooling": tap.pooling, "noise": noise, "conditioning": "class",
        "scheduler": type(scheduler).__name__, "num_inference_steps": len(scheduler.timesteps),
    })  # fmt: skip


def _check(index: Index, options: dict[str, object]) -> None:
    recorded = index.spec.to_json()
    differing = [
        f"{name} is {_short(recorded[name])} there, {_short(value)} here"
        for name, value in options.items()
        if recorded[name] != value
    ]
    if differing:
        raise OptionError(
            f"index {index.path} does not fit this run ({'; '.join(differing)}): "
            "use the options of the index, or build another"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:13]}…'"


class _SourceWithoutImages(Source):
    """The classes, labels and ids of an index's images; methods that need the images themselves raise OptionError."""

    def images(self, indices: Sequence[int] | np.ndarray, *, size: int, channels: int) -> np.ndarray:
        """Raise OptionError."""
        _no_images()

    @cached_property
    def appearance(self) -> Appearance:
        """Raise OptionError."""
        _no_images()


def _no_images(index: int = 0) -> NoReturn:
    raise OptionError("this method needs the images, and an index has none: give the source as well as the index")


def source_of_index(index: Index, classes: Collection[str] | None = None) -> Source:
    """Return the source of an index, without images: asking for them raises OptionError.

    Args:
        index: The index.
        classes: Names of the classes to keep; None: all.

    Raises:
        OptionError: The index does not have such a class.
    """
    names = set(class_names(index, classes))
    entries = [entry for entry in index.classes if entry.name in names]
    return _SourceWithoutImages(
        name=index.spec.source["name"],
        class_names=tuple(entry.name for entry in entries),
        source_ids=tuple(entry.name for entry in entries),
        labels=np.repeat(np.arange(len(entries), dtype=np.int64), [entry.rows for entry in entries]),
        ids=[image_id for entry in entries for image_id in index.ids(entry.name)],
        load=_no_images,
        digest=lambda: index.spec.source["identity"],
    )


def class_names(index: Index, classes: Collection[str] | None) -> list[str]:
    """Return the names of the classes of an index: all of them, or those in ``classes``.

    Raises:
        OptionError: ``classes`` is empty, or has a name that the index does not have.
    """
    known = [entry.name for entry in index.classes]
    wanted = known if classes is None else [classes] if isinstance(classes, str) else list(classes)
    if not wanted:
        raise OptionError("classes= is empty; name at least one class, or leave it out for all")
    for name in wanted:
        if name not in known:
            raise unknown_name_error(f"class of the index {index.path}", name, known)
    return wanted
