"""Whether an index fits a run, and what stands for the source where a run has the index alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from dap.data.source import Source
from dap.errors import OptionError
from dap.features.build import prior_hash
from dap.features.pooling import Tap
from dap.registry import unknown_name_error

if TYPE_CHECKING:
    from dap.index import Index
    from dap.priors import Prior

__all__ = ["check_prior", "check_references", "check_source", "class_names", "source_of_index"]


def check_source(index: Index, source: Source) -> None:
    """Refuses an index of other images; ``source`` is the whole source, with all of its classes.

    Raises:
        OptionError: It says what differs.
    """
    found, wanted = source.identity(), index.spec.source["identity"]
    if found != wanted:
        raise OptionError(
            f"index {index.path} was built from {index.spec.source['name']!r} with identity {wanted[:12]}…, the source "
            f"{source.name!r} has {found[:12]}…: its images changed, or it is another one; build the index again"
        )


def check_prior(index: Index, prior: Prior) -> None:
    """Refuses an index of another prior's features and labels.

    Raises:
        OptionError: It says what differs.
    """
    _check(index, {"prior": prior_hash(prior)})


def check_references(index: Index, tap: Tap, scheduler: Any, noise: str) -> None:
    """Refuses an index whose features are not those that a run compares with.

    Args:
        index: The index.
        tap: Where the run takes its features.
        scheduler: The run's diffusers scheduler.
        noise: "own" or "shared".

    Raises:
        OptionError: It names each option that differs.
    """
    if index.spec.shard is not None:
        part, parts = index.spec.shard
        raise OptionError(f"index {index.path} is part {part} of {parts}: join the parts with dap index merge first")
    _check(index, {
        "block": tap.block, "pooling": tap.pooling, "noise": noise, "conditioning": "class",
        "scheduler": type(scheduler).__name__, "num_inference_steps": len(scheduler.timesteps),
    })  # fmt: skip


def _check(index: Index, wanted: dict[str, Any]) -> None:
    there = {name: getattr(index.spec, name) for name in wanted}
    differing = [
        f"{name} is {_short(there[name])} there, {_short(value)} here"
        for name, value in wanted.items()
        if there[name] != value
    ]
    if differing:
        raise OptionError(
            f"index {index.path} does not fit this run ({'; '.join(differing)}): "
            "use the options of the index, or build another"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:13]}…'"


class _LeftOut(Source):
    """Classes, labels and ids of an index's images, without the images."""

    def images(self, indices: Sequence[int] | np.ndarray, *, size: int, channels: int) -> np.ndarray:
        """Refuses."""
        _refuse(size)

    def native_shape(self) -> tuple[int, int]:
        """Refuses."""
        _refuse(0)


def _refuse(_: int) -> NoReturn:
    raise OptionError("this method needs the images themselves, an index has none: name the source beside it")


def source_of_index(index: Index, classes: Collection[str] | None = None) -> Source:
    """The source of an index without its images, which are refused when they are asked for.

    Args:
        index: The index.
        classes: Names of the classes to keep; None: all.

    Raises:
        OptionError: The index does not have such a class.
    """
    names = set(class_names(index, classes))
    chosen = [each for each in index.classes if each.name in names]
    return _LeftOut(
        name=index.spec.source["name"],
        class_names=tuple(each.name for each in chosen),
        source_ids=tuple(each.name for each in chosen),
        labels=np.repeat(np.arange(len(chosen), dtype=np.int64), [each.rows for each in chosen]),
        ids=[image_id for each in chosen for image_id in index.ids(each.name)],
        load=_refuse,
        digest=lambda: index.spec.source["identity"],
    )


def class_names(index: Index, classes: Collection[str] | None) -> list[str]:
    """Names of the classes of an index, all of them or those that are named.

    Raises:
        OptionError: None is named, or one that the index does not have.
    """
    known = [each.name for each in index.classes]
    wanted = known if classes is None else [classes] if isinstance(classes, str) else list(classes)
    if not wanted:
        raise OptionError("classes= is empty; name at least one class, or leave it out for all")
    for name in wanted:
        if name not in known:
            raise unknown_name_error(f"class of the index {index.path}", name, known)
    return wanted
