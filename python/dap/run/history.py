"""The history of a run: how it grew, by images or by classes, and which slots were made again.

The manifest keeps it, and the plan follows from it: the same calls in the same order make the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dap.data.ipc import ipc_of, numbers_of_classes
from dap.data.manifest import check_same_run
from dap.data.names import some
from dap.errors import OptionError, RunMismatchError
from dap.methods import AnyMethod
from dap.run.header import described_sources, header_of
from dap.run.job import Job
from dap.run.plan import Round

__all__ = ["IDENTITY", "History", "check_hashes", "history_of"]

IDENTITY = ("options", "source", "prior", "class_map", "index")  # what has to be the same for a run to be continued
BY_CLASS = ("prompts", "concepts")  # entries of a text prior's description


class History(NamedTuple):
    """What has been asked of a folder, with what is asked now.

    Attributes:
        stages: For each time that images were added, the number of images of each class after it.
        rounds: The slots that were made again at one time, the earliest first.
        grows: Whether the last stage is new.
        remakes: Whether the last round is new.
    """

    stages: list[tuple[int, ...]]
    rounds: list[Round]
    grows: bool
    remakes: bool

    def to_json(self, names: Sequence[str]) -> dict[str, object]:
        """Return the entries of the manifest, for the names of the run's classes."""
        stages = [ipc_of(stage, names) for stage in self.stages]
        rounds = [{names[index]: list(numbers) for index, numbers in slots.items()} for slots in self.rounds]
        return {"ipc": stages[-1], "ipc_stages": stages} | ({"remade": rounds} if rounds else {})


def history_of(
    out: Path, before: Mapping[str, Any] | None, job: Job, batch_size: int, remake: Mapping[str, Sequence[int]]
) -> History:
    """Return the history of a folder with what a job adds to it.

    Args:
        out: The folder.
        before: Its manifest; None: there is none.
        job: The run.
        batch_size: Its batch size.
        remake: The slots that are to be made again, of :func:`dap.data.remake.slots_to_remake`.

    Raises:
        RunMismatchError: The folder holds other options; or more images or classes than the job asks for; or the method
            can add none, or cannot make these slots again.
    """
    if before is None:
        return History([job.counts], [], grows=True, remakes=False)
    names, old_names = [entry.name for entry in job.classes], [entry["name"] for entry in before["class_map"]]
    if set(names) < set(old_names):
        left_out = [name for name in old_names if name not in names]
        raise RunMismatchError(f"{out} holds class {some(left_out)} too: name it (classes=), or choose another folder")
    added = [name for name in names if name not in old_names] if set(names) > set(old_names) else []
    _check_versions(out, before, job)
    identity = _identity(job, before, added) | {"batch_size": batch_size}
    check_same_run(out, {key: before.get(key) for key in identity}, identity)
    shared = job.recipe.shared()
    if added and shared is not None:
        raise RunMismatchError(
            f"{out}: class {some(added)} cannot be added, since the classes of this method share {shared}: choose "
            "another folder, and make all classes there"
        )
    stages = [
        numbers_of_classes(ipc if isinstance(ipc, dict) else dict.fromkeys(old_names, ipc), names)
        for ipc in before["ipc_stages"]
    ]
    for name, had, has in zip(names, stages[-1], job.counts, strict=True):
        if has < had:
            raise RunMismatchError(
                f"{out} holds {had} images {_of(name, job)}, more than ipc={has}: choose another folder"
            )
        if has > had > 0 and job.recipe.couples != "slot":
            raise RunMismatchError(
                f"{out}: method {job.recipe.name} makes the images of a class together, so ipc={had} cannot grow to "
                f"{has}: choose another folder, and make all images there"
            )
    grows = stages[-1] != job.counts
    _check_remakes(job, remake)
    rounds: list[Round] = [_by_index(slots, names) for slots in before.get("remade", ())]
    again = _by_index(remake, names)
    # an unfinished run with these slots as the last ones is continued
    remakes = bool(again) and (before["status"] == "complete" or rounds[-1:] != [again])
    return History([*stages, job.counts] if grows else stages, [*rounds, again] if remakes else rounds, grows, remakes)


def _by_index(slots: Mapping[str, Sequence[int]], names: Sequence[str]) -> Round:
    return {names.index(name): list(numbers) for name, numbers in slots.items()}


def _of(name: str, job: Job) -> str:
    return "per class" if len(set(job.counts)) == 1 else f"of class {name!r}"


def _check_versions(out: Path, before: Mapping[str, Any], job: Job) -> None:
    """Raise if another version of the same method, whose images differ, made what the folder holds."""
    if before["options"]["method"]["name"] != job.recipe.name:
        return
    there, now = before["options"].get("method_versions", {}), job.recipe.versions()
    for name in sorted({*there, *now}):
        if there.get(name, 1) != now.get(name, 1):
            raise RunMismatchError(
                f"{out} was made by version {there.get(name, 1)} of {name!r}; this dap has version {now.get(name, 1)}, "
                "which makes other images: choose another folder, or delete it"
            )


def _check_remakes(job: Job, remake: Mapping[str, Sequence[int]]) -> None:
    """Raise unless the method can make these slots again."""
    recipe, counts = job.recipe, {entry.name: count for entry, count in zip(job.classes, job.counts, strict=True)}
    if remake and recipe.remakes() == "nothing":
        raise OptionError(
            f"remake: method {recipe.name!r} chooses real images, so the same ones would come again: leave the image "
            "out of the source, or choose another seed"
        )
    parts = [name for name, numbers in remake.items() if len(numbers) < counts[name]]
    if parts and recipe.remakes() == "class":
        raise OptionError(
            f"remake: with these options method {recipe.name!r} chooses the images of a class together: make the whole "
            f"class again, {parts[0]!r}"
        )


def _known(now: Mapping[str, object], before: Mapping[str, object], recipe: AnyMethod) -> Mapping[str, object]:
    """Return the options of a method without those that a version added after the run, where they have the default."""
    defaults = {field.name: field.default for field in dataclasses.fields(recipe)}
    return {key: value for key, value in now.items() if key in before or value != defaults.get(key)}


def _identity(job: Job, before: Mapping[str, Any], added: Collection[str]) -> dict[str, object]:
    """Return the identity of a job as it is without the classes that were added."""
    header: dict[str, Any] = {key: value for key, value in header_of(job).items() if key in IDENTITY}
    options = header["options"]
    options["method"] = _known(options["method"], before["options"]["method"], job.recipe)
    if not added:
        return header
    header["class_map"] = [entry for entry in header["class_map"] if entry["name"] not in added]
    sources = described_sources(job, [entry["name"] for entry in header["class_map"]])
    header["source"] = before["source"] if before["source"] in sources else sources[0]
    if header["prior"] is not None:
        for key in header["prior"].keys() & set(BY_CLASS):
            values = header["prior"][key]
            header["prior"] |= {key: {name: value for name, value in values.items() if name not in added}}
    return header


def check_hashes(out: Path, before: object, record: object, name: str = "record") -> None:
    """Raise unless the hashes in two records of a method, of a teacher's file for example, are the same.

    Args:
        out: The folder of the run.
        before: The record of the images that are there; None: there are none.
        record: That of the images that are to be made.
        name: Of the part of the record that is compared, for the error.

    Raises:
        RunMismatchError: A hash is another one.
    """
    if isinstance(before, Mapping) and isinstance(record, Mapping):
        for key in before.keys() & record.keys():
            check_hashes(out, before[key], record[key], f"{name}.{key}")
    elif isinstance(before, list) and isinstance(record, list):
        for number, (old, new) in enumerate(zip(before, record, strict=False)):
            check_hashes(out, old, new, f"{name}.{number}")
    elif name.endswith(".sha256") and before != record:
        what = name.removeprefix("record.").removesuffix("sha256").rstrip(".") or "teacher"
        raise RunMismatchError(
            f"{out}: the {what} has other weights (SHA-256 {str(record)[:12]}) than the one that made the images there "
            f"({str(before)[:12]}): restore its file, or choose another folder"
        )
