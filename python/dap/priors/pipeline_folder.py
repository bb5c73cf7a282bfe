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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import diffusers
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import LocalEntryNotFoundError

from dap.errors import FormatError, SourceError
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

__all__ = [
    "ERRORS",
    "LABELS",
    "label_names_of",
    "local_folder",
    "pipeline_type",
    "quiet",
    "read_recommended",
    "unreadable",
    "variant_of",
]

INDEX, SETTINGS = "model_index.json", "dap_prior.json"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)  # the third is diffusers' own safety checker
WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[\w-]+?))?(?:-\d{5}-of-\d{5})?\.safetensors")
MOST = 2**24  # bytes of a JSON file
TIMEOUT = 10.0  # seconds in which the hub has to answer
ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)  # of diffusers' loading

LABELS = mapping(TEXT, keys=matching(r"\d{1,9}", "the number of a label"))
RECOMMENDED = fields(
    {},
    {
        "num_inference_steps": whole(1), "guidance_scale": NUMBER, "eta": NUMBER,
        "scheduler": either(NOTHING, TEXT), "block": either(whole(1), TEXT),
    },
    more=True,
)  # fmt: skip


def _part(name: str, value: object) -> None:
    """Check a value of ``model_index.json``: a list is the library and class of a part of the pipeline."""
    if not isinstance(value, list):
        return
    texts = all(entry is None or isinstance(entry, str) for entry in value)
    if len(value) != 2 or not texts or value[0] not in LIBRARIES:
        raise Mismatch(name, "the library and class of a part, of diffusers or transformers alone", value)


PIPELINE = mapping(_part)
CLASS = fields({"_class_name": TEXT}, {"id2label": either(NOTHING, LABELS)}, more=True)


def pipeline_type(id_or_path: str | Path) -> str:
    """Return the class name of the pipeline in a folder or hub id, from its ``model_index.json``.

    Raises:
        SourceError: There is no pipeline, the hub cannot be reached, or the pipeline needs code of its own.
    """
    file = Path(id_or_path) / INDEX if os.path.isdir(id_or_path) else _fetched(str(id_or_path))
    try:
        index: dict[str, Any] = read_json(file, PIPELINE, most=MOST)
        read_json(file, CLASS, most=MOST)
    except FileNotFoundError:
        raise SourceError(f"prior {str(id_or_path)!r}: no pipeline's folder, it has no {INDEX}") from None
    except FormatError as error:
        raise SourceError(f"prior {str(id_or_path)!r}: {error}") from error
    return str(index["_class_name"])


def local_folder(id_or_path: str | Path, kind: str, variant: str | None, use_safetensors: bool) -> Path:
    """Return the folder of a pipeline, of a hub id after its download, if it holds nothing but data.

    Args:
        id_or_path: A folder or hub id for which :func:`pipeline_type` returned ``kind``.
        kind: Name of the pipeline's class.
        variant: Which weights are downloaded.
        use_safetensors: Whether pickled weights are left out.

    Raises:
        SourceError: It cannot be downloaded, or it has Python files, pipes or devices in it.
    """
    folder = Path(id_or_path)
    if not os.path.isdir(id_or_path):
        try:
            folder = Path(
                getattr(diffusers, kind).download(str(id_or_path), use_safetensors=use_safetensors, variant=variant)
            )
        except ERRORS as error:
            raise unreadable(id_or_path, kind, error) from error
        pipeline_type(folder)  # what was downloaded may be newer than what was checked
    for place in [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]:
        for path in sorted(place.iterdir()):
            if path.suffix in (".py", ".pyc", ".so"):
                raise SourceError(
                    f"prior {str(id_or_path)!r}: holds code ({path.relative_to(folder)}), which dap does not run; "
                    "remove the file if the pipeline works without it"
                )
            if not (path.is_file() or path.is_dir()) and path.exists():
                raise SourceError(f"prior {str(id_or_path)!r}: {path.relative_to(folder)} is a pipe or a device")
    return folder


def variant_of(folder: Path) -> str | None:
    """Return the variant ("fp16") of a folder's weights where a part has no others; None if all have plain weights."""
    variants = set()
    for place in folder.iterdir():
        names = [WEIGHTS.fullmatch(path.name) for path in place.iterdir()] if place.is_dir() else []
        of_part = {match["variant"] for match in names if match}
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
def quiet() -> Iterator[None]:
    """Return a context in which diffusers loads without bars and without a warning about ``id2label``."""
    libraries = [diffusers_logging]
    if "transformers" in sys.modules:  # which diffusers imports if it is there
        from transformers.utils import logging as transformers_logging

        libraries.append(transformers_logging)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    loggers = [logging.getLogger(f"diffusers.{name}") for name in ("configuration_utils", "pipelines.pipeline_utils")]

    def wanted(record: logging.LogRecord) -> bool:
        return "id2label" not in record.getMessage()

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


def unreadable(id_or_path: str | Path, kind: str, error: Exception) -> SourceError:
    """Return dap's error for one of diffusers', with its first line."""
    return SourceError(f"prior {str(id_or_path)!r}: no {kind} folder or reachable hub id ({_first_line(error)})")


def _fetched(name: str) -> Path:
    """Return the ``model_index.json`` of a hub id, from the cache of the hub or the hub, which is asked once."""
    looked = f"no folder {os.path.abspath(name)}"
    if not HUB_ID.fullmatch(name) or Path(name).parent.is_dir():
        raise SourceError(
            f"prior {name!r}: expected 'fashion-dit', the folder of a pipeline or a hub id such as "
            f"'facebook/DiT-XL-2-256'; there is {looked}"
        )
    try:
        with suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(name, INDEX, local_files_only=True))
        if HF_HUB_OFFLINE:
            raise SourceError(
                f"prior {name!r}: there is {looked}, nor such a model in the hub's cache (HF_HUB_OFFLINE)"
            )
        get_hf_file_metadata(hf_hub_url(name, INDEX), timeout=TIMEOUT)  # hf_hub_download would try five times
        return Path(hf_hub_download(name, INDEX))
    except SourceError:
        raise
    except Exception as error:  # of whichever HTTP client the hub's library uses
        raise SourceError(
            f"prior {name!r}: there is {looked}, and no reachable model of that name on the hub ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
