"""Sets and indexes on the Hugging Face hub: uploading a folder as a dataset repository, and fetching one back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dap.data.manifest import verify_files
from dap.data.pack_record import read_pack_record
from dap.data.shard_paths import PACKED
from dap.errors import OptionError, SourceError
from dap.storage.files import atomic_folder

__all__ = ["check_repo_id", "download_folder", "download_set", "is_hub_set", "upload_folder"]

HUB_SET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
T = TypeVar("T")


def upload_folder(
    folder: Path, repo_id: str, *, private: bool | None, token: str | None, message: str, replaces: str,
    card: str | None = None,
) -> str:  # fmt: skip
    """Upload all files of a folder in one commit, and a card in a second one; return the repository's URL.

    Args:
        folder: The files.
        repo_id: "user/name"; the repository is made if there is none.
        private: Whether a new repository is private; None: as the organisation has it.
        token: None: that of ``hf auth login`` or ``$HF_TOKEN``.
        message: The commit's message.
        replaces: Pattern of the files in the repository that are deleted, unless they are uploaded again.
        card: Text of a ``README.md`` that the folder does not have; None: it has its own, or none.

    Raises:
        OptionError: ``repo_id`` is no name of a repository.
        SourceError: The hub refuses, or cannot be reached.
    """
    check_repo_id(repo_id)
    api = HfApi(token=token)

    def upload() -> str:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, repo_type="dataset", commit_message=message, delete_patterns=replaces
        )
        if card is not None:
            api.upload_file(
                path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo_id, repo_type="dataset",
                commit_message="Card",
            )  # fmt: skip
        return str(url)

    return _asking(f"cannot push to {repo_id!r}", upload)


def download_folder(repo_id: str, out: Path, marker: str, kind: str, *, token: str | None) -> None:
    """Copy the files of a dataset repository, but for its card, to a folder that appears whole.

    Args:
        repo_id: "user/name".
        out: The folder: new, or empty.
        marker: A file that every repository of this kind has.
        kind: What it is, for errors, such as "feature index".
        token: None: that of ``hf auth login`` or ``$HF_TOKEN``.

    Raises:
        OptionError: ``repo_id`` is no name of a repository.
        SourceError: The repository lacks ``marker``, the hub refuses, or it cannot be reached.
    """
    check_repo_id(repo_id)

    def download() -> Path:
        try:
            hf_hub_download(repo_id, marker, repo_type="dataset", token=token)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as error:
            raise SourceError(f"{repo_id}: the repository is no {kind}: it has no {marker}") from error
        return Path(
            snapshot_download(
                repo_id, repo_type="dataset", token=token, ignore_patterns=["README.md", ".gitattributes"]
            )
        )

    snapshot = _asking(f"cannot download {repo_id!r}", download)
    with atomic_folder(out) as temporary:
        shutil.copytree(snapshot, temporary, dirs_exist_ok=True)


def check_repo_id(repo_id: str) -> None:
    """Raise OptionError unless ``repo_id`` is "user/name"."""
    if not isinstance(repo_id, str) or not HUB_SET.fullmatch(repo_id):
        raise OptionError(f"repo_id: expected user/name, got {repo_id!r}")


def is_hub_set(path: object) -> bool:
    """Whether a path can only be a repository of the hub: "user/name", where there is no folder "user"."""
    return isinstance(path, str) and HUB_SET.fullmatch(path) is not None and not Path(path).parent.exists()


def download_set(repo_id: str) -> Path | None:
    """Return the folder of a packed set of the hub, downloaded and checked; None if dap did not upload it.

    Raises:
        FormatError: Its record is damaged.
        RunMismatchError: A file differs from its recorded hash.
        SourceError: The hub refuses.
    """
    try:
        record = read_pack_record(Path(hf_hub_download(repo_id, PACKED, repo_type="dataset")))
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return None  # another dataset, or none: ``datasets`` says which
    files = list(record.get("files", {}))
    folder = _asking(
        f"cannot download {repo_id!r}",
        lambda: Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns=[PACKED, *files])),
    )
    if len(verify_files(folder, record["files"])) < len(files):
        raise SourceError(f"{repo_id}: the repository lacks files that its {PACKED} lists; push the set again")
    return folder


def _asking(what: str, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except (MemoryError, SourceError):
        raise
    except Exception as error:  # of the hub, or of its library's client, another one in each of its versions
        reason = " ".join(str(error).split())
        raise SourceError(f"{what} ({type(error).__name__}: {reason}); log in by: hf auth login") from error
