"""The folder of a diffusers pipeline, checked before diffusers reads it: it names no code, and holds none.

diffusers imports the library that ``model_index.json`` names for each part of a pipeline; before version 0.38 it also
ran Python files in the folder. dap reads pipelines of diffusers and transformers alone.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dap.errors import FormatError, SourceError
from dap.priors.hub import CARD, ERRORS, INDEX, Files, download, fetched_index, unreadable
from dap.storage.checked_json import (
    NOTHING,
    NUMBER,
    TEXT,
    Mismatch,
    either,
    fields,
    mapping,
    matching,
    read_json,
    whole,
)
from dap.storage.file_states import FileStates

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["LABELS", "label_names_of", "licence_of", "load_pipeline", "pipeline_type", "read_recommended"]

SETTINGS = "dap_prior.json"
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)  # the third is diffusers' own safety checker
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model|pytorch_model)(?:\.(?P<variant>[\w-]+?))?(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)"
)
MOST = 2**24  # bytes of a JSON file
LICENCE = re.compile(r"\A---\s*\n(?:(?!---).*\n)*?license(?:_name)?:[ \t]*[\"']?(?!other\b)(?P<name>[\w.-]+)")
UNWANTED = ("id2label", "trying to fetch", "Defaulting to unsafe")  # in messages of diffusers
CARD_START = 2**16  # bytes of a model card that are read

LABELS = mapping(TEXT, keys=matching(r"\d{1,9}", "the number of a label"))
RECOMMENDED = fields(
    {},
    {
        "num_inference_steps": whole(1), "guidance_scale": NUMBER, "eta": NUMBER,
        "scheduler": either(NOTHING, TEXT), "timestep_spacing": either(NOTHING, TEXT), "block": either(whole(1), TEXT),
    },
    more=True,
)  # fmt: skip
SHARDS = fields({"weight_map": mapping(matching(r"[\w.-]+\.(?:safetensors|bin)", "a file beside it"))}, more=True)


def _part(name: str, value: object) -> None:
    """Check a value of ``model_index.json``: a list is the library and class of a part of the pipeline."""
    if not isinstance(value, list):
        return
    texts = all(entry is None or isinstance(entry, str) for entry in value)
    if len(value) != 2 or not texts or value[0] not in LIBRARIES:
        raise Mismatch(name, "the library and class of a part, of diffusers or transformers alone", value)


PIPELINE = mapping(_part)
CLASS = fields({"_class_name": TEXT}, {"id2label": either(NOTHING, LABELS)}, more=True)


def pipeline_type(files: Files) -> str:
    """Return the class name of the pipeline in a folder or hub id, from its ``model_index.json``.

    Raises:
        SourceError: There is no pipeline, the hub cannot be reached, or the pipeline needs code of its own.
    """
    file = fetched_index(files) if files.folder is None else files.folder / INDEX
    name = str(files.folder or files.name)
    try:
        index: dict[str, Any] = read_json(file, PIPELINE, most=MOST)
        read_json(file, CLASS, most=MOST)
    except FileNotFoundError:
        raise SourceError(f"prior {name!r}: no pipeline's folder, it has no {INDEX}") from None
    except FormatError as error:
        raise SourceError(f"prior {name!r}: {error}") from error
    return str(index["_class_name"])


def load_pipeline(
    files: Files, kind: str, components: Mapping[str, object]
) -> tuple[DiffusionPipeline, Mapping[str, object], FileStates]:
    """Return a pipeline on the CPU, if its folder holds nothing but data, its recommended settings, and its files.

    Args:
        files: Those for which :func:`pipeline_type` returned ``kind``.
        kind: Name of the pipeline's class.
        components: Parts of the pipeline that it is given instead of loading them; None: it goes without.

    Raises:
        SourceError: It cannot be downloaded or read, or it has Python files, pipes or devices in it.
    """
    import diffusers

    with _quiet():
        folder = files.folder
        if folder is None:
            folder = download(files, kind, components)
            pipeline_type(Files(folder))  # what was downloaded may be newer than what was checked
        states = FileStates.of(folder)
        _check_files(folder, str(files.name))
        recommended = read_recommended(folder)
        # diffusers reads pickled shards only if no safetensors are asked for, and both kinds only if nothing is said
        safe = files.use_safetensors or (None if any(folder.glob("*/*.safetensors")) else False)
        try:
            pipeline: DiffusionPipeline = getattr(diffusers, kind).from_pretrained(  # a class of diffusers, by its name
                str(folder), use_safetensors=safe,
                variant=files.variant or _variant_of(folder, files.use_safetensors), low_cpu_mem_usage=False,
                **components,
            )  # fmt: skip
        except ERRORS as error:
            if files.use_safetensors and any(folder.glob("*/*.bin")):
                raise SourceError(
                    f"prior {str(files.name)!r}: has pickled weights (.bin), which can run code of the person who made "
                    "them; to read them, give the prior's option use_safetensors=false"
                ) from error
            raise unreadable(files.name, kind, error) from error
    return pipeline, recommended, states


def _check_files(folder: Path, name: str) -> None:
    """Raise unless a pipeline's folder holds nothing but data."""
    for place in [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]:
        for path in sorted(place.iterdir()):
            if path.suffix in (".py", ".pyc", ".so"):
                raise SourceError(
                    f"prior {name!r}: holds code ({path.relative_to(folder)}), which dap does not run; "
                    "remove the file if the pipeline works without it"
                )
            if not (path.is_file() or path.is_dir()) and path.exists():
                raise SourceError(f"prior {name!r}: {path.relative_to(folder)} is a pipe or a device")
            if path.match("*.index*.json") and path.name != INDEX:  # the files of weights that are sharded
                try:
                    read_json(path, SHARDS, most=MOST)
                except FormatError as error:
                    raise SourceError(f"prior {name!r}: {error}") from error


def _variant_of(folder: Path, use_safetensors: bool) -> str | None:
    """Return the variant ("fp16") of a folder's weights where a part has no others; None if all have plain weights."""
    variants = set()
    for place in folder.iterdir():
        names = [WEIGHTS.fullmatch(path.name) for path in place.iterdir()] if place.is_dir() else []
        read = [match for match in names if match and not (use_safetensors and match[0].endswith(".bin"))]
        of_part = {match["variant"] for match in read}
        if of_part and None not in of_part:
            variants |= of_part
    return min(variants, default=None)


def label_names_of(folder: Path) -> Mapping[str, object]:
    """Return the ``id2label`` of a folder's ``model_index.json``, which diffusers does not keep; {} if it has none.

    Raises:
        FormatError: It is not a mapping of numbers to text.
    """
    try:
        index: dict[str, Any] = read_json(folder / INDEX, CLASS, most=MOST)
    except FileNotFoundError:  # the pipeline is of the hub, or was made in memory
        return {}
    return index.get("id2label") or {}


def licence_of(folder: str | None) -> str | None:
    """Return the licence that the model card of a folder names in its first lines, such as "mit"; None if none."""
    try:
        with open(os.path.join(folder or "\0", CARD), "rb") as file:
            start = file.read(CARD_START).decode("utf-8", "replace")
    except (OSError, ValueError):  # no folder
        return None
    found = LICENCE.match(start.replace("\r\n", "\n"))
    return found["name"] if found else None


def read_recommended(folder: Path) -> Mapping[str, object]:
    """Return the settings that a folder recommends in ``dap_prior.json``; none if it has no such file.

    Raises:
        SourceError: It is not JSON with settings.
    """
    try:
        recommended: dict[str, object] = read_json(folder / SETTINGS, RECOMMENDED, most=MOST)
    except FileNotFoundError:
        return {}
    except FormatError as error:
        raise SourceError(f"recommended settings: {error}") from error
    return recommended


@contextmanager
def _quiet() -> Iterator[None]:
    """Return a context in which diffusers loads without bars, and without warnings of what dap says itself."""
    from diffusers.utils import logging as diffusers_logging

    libraries = [diffusers_logging]
    if "transformers" in sys.modules:  # which diffusers imports if it is there
        from transformers.utils import logging as transformers_logging

        libraries.append(transformers_logging)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    modules = ("configuration_utils", "pipelines.pipeline_utils", "models.modeling_utils")
    loggers = [logging.getLogger(f"diffusers.{name}") for name in modules]

    def wanted(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in UNWANTED)

    for library in shown:
        library.disable_progress_bar()
    for logger in loggers:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(wanted)
        for library in shown:
            library.enable_progress_bar()
