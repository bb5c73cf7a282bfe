"""Which files a pipeline is read from: those of a folder, or of the Hugging Face hub after their download."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

from dap.errors import OptionError, SourceError

__all__ = ["CARD", "ERRORS", "INDEX", "Files", "ask_once", "download", "fetched_index", "unreadable"]

INDEX, CARD = "model_index.json", "README.md"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl", "*.msgpack", "*.onnx*")  # what is no safetensors
TIMEOUT = 10.0  # seconds in which the hub has to answer
ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)  # of diffusers' loading


@dataclass(frozen=True)
class Files:
    """The files of a pipeline; see :meth:`dap.priors.pipeline.PipelinePrior.from_pretrained`.

    Attributes:
        name: A folder, or a hub id such as "facebook/DiT-XL-2-256".
        use_safetensors: Whether pickled weights are left out.
        variant: Which weights are read, such as "fp16".
        subfolder: The folder below that holds the pipeline's ``model_index.json``; None: the first itself.
        revision: Branch, tag or commit of a hub id; None: its main branch.
        token: The hub's token; None: that of ``hf auth login`` or $HF_TOKEN.

    Raises:
        OptionError: A value of another type, a sub-folder outside, or a revision of a folder.
    """

    name: str | Path
    use_safetensors: bool = True
    variant: str | None = None
    subfolder: str | None = None
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        below = self.subfolder
        for option, value, fits, expected in (
            ("use_safetensors", self.use_safetensors, isinstance(self.use_safetensors, bool), "true or false"),
            ("variant", self.variant, isinstance(self.variant, str | None), "text such as fp16"),
            ("subfolder", below, below is None or _is_below(below), "a folder below the prior's"),
            ("revision", self.revision, isinstance(self.revision, str | None), "a branch, tag or commit of the hub"),
            ("token", "…", isinstance(self.token, str | bool | None), "text"),
        ):
            if not fits:
                raise OptionError(f"{option}: expected {expected}, got {value!r}")
        if self.folder is not None and self.revision is not None:
            raise OptionError(f"revision: {str(self.name)!r} is a folder; leave it out, or give a hub id")

    @property
    def folder(self) -> Path | None:
        """The folder with the pipeline; None if the name is no folder here."""
        return Path(self.name) / (self.subfolder or "") if os.path.isdir(self.name) else None

    def path(self, name: str) -> str:
        """Return the name of a file of the pipeline in the hub's repository."""
        return name if self.subfolder is None else f"{self.subfolder.rstrip('/')}/{name}"


def fetched_index(files: Files) -> Path:
    """Return the ``model_index.json`` of a hub id, from the cache of the hub or the hub, which is asked once.

    Raises:
        SourceError: The name is no hub id, or there is no such model that can be reached.
    """
    name, file = str(files.name), files.path(INDEX)
    looked = f"no folder {os.path.abspath(name)}"
    if not HUB_ID.fullmatch(name) or Path(name).parent.is_dir():
        raise SourceError(
            f"prior {name!r}: expected 'fashion-dit', the folder of a pipeline or a hub id such as "
            f"'facebook/DiT-XL-2-256'; there is {looked}"
        )
    try:
        with suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(name, file, revision=files.revision, local_files_only=True))
        if HF_HUB_OFFLINE:
            raise SourceError(
                f"prior {name!r}: there is {looked}, nor such a model in the hub's cache (HF_HUB_OFFLINE)"
            )
        return _fetch(files, file)
    except SourceError:
        raise
    except GatedRepoError as error:
        raise SourceError(
            f"prior {name!r}: the model is gated: accept its terms on https://huggingface.co/{name}, then use "
            "hf auth login, $HF_TOKEN or the prior's option token"
        ) from error
    except Exception as error:  # of whichever HTTP client the hub's library uses
        raise SourceError(
            f"prior {name!r}: there is {looked}, and no reachable model of that name on the hub ({_first_line(error)})"
        ) from error


def ask_once(name: str, *cached: str) -> None:
    """Raise if a hub id cannot be reached, after one try; libraries of networks alone would try many times.

    Args:
        name: The hub id, with "@revision" or without.
        cached: Files of it; if one of them is in the cache of the hub, nothing is asked.
    """
    repository, _, revision = name.partition("@")
    chosen = revision or None
    found = [try_to_load_from_cache(repository, file, revision=chosen) for file in cached]
    if HF_HUB_OFFLINE or any(isinstance(path, str) for path in found):
        return
    with suppress(EntryNotFoundError):  # of a model that is there
        get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=chosen), timeout=TIMEOUT)


def download(files: Files, kind: str, components: Mapping[str, object]) -> Path:
    """Return the folder of a hub id in the cache, after its download.

    Args:
        files: The files of a hub id.
        kind: Name of the pipeline's class.
        components: Parts that the pipeline is given, so that they are not downloaded (None: it goes without).

    Raises:
        SourceError: It cannot be downloaded.
    """
    import diffusers

    name = str(files.name)
    hub: dict[str, Any] = {"revision": files.revision, "token": files.token}
    try:
        if files.subfolder is None:
            whole = Path(
                getattr(diffusers, kind).download(
                    name, use_safetensors=files.use_safetensors or None, variant=files.variant, **hub, **components
                )
            )
        else:  # diffusers has no sub-folders of pipelines
            left_out = list(PICKLED) if files.use_safetensors else []
            whole = Path(snapshot_download(name, allow_patterns=files.path("*"), ignore_patterns=left_out, **hub))
    except ERRORS as error:
        raise unreadable(name, kind, error) from error
    if files.subfolder is None and not (whole / CARD).is_file():
        with suppress(Exception):  # for the licence; a pipeline may have no model card
            _fetch(files, CARD)
    return whole / (files.subfolder or "")


def unreadable(name: str | Path, kind: str, error: Exception) -> SourceError:
    """Return dap's error for one of diffusers', with its first line."""
    return SourceError(f"prior {str(name)!r}: no {kind} folder or reachable hub id ({_first_line(error)})")


def _is_below(path: object) -> bool:
    return isinstance(path, str) and path != "" and not {"..", "/"} & set(Path(path).parts)


def _fetch(files: Files, file: str) -> Path:
    """Return a file of a hub id after its download; hf_hub_download alone would try five times to reach the hub."""
    name = str(files.name)
    get_hf_file_metadata(hf_hub_url(name, file, revision=files.revision), token=files.token, timeout=TIMEOUT)
    return Path(hf_hub_download(name, file, revision=files.revision, token=files.token))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
