"""Feature indexes on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from dap.config import check_path
from dap.data.hub import check_repo_id, download_folder, upload_folder
from dap.errors import OptionError
from dap.index.card import index_card
from dap.index.reader import Index, open_index
from dap.index.spec import INDEX
from dap.storage.files import check_writable, is_vacant

__all__ = ["pull_index", "push_index"]


def push_index(
    index: str | Path | Index, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Upload a feature index to the Hugging Face hub, as a dataset repository with a card.

    Args:
        index: The index or its folder; all of its bytes are checked first.
        repo_id: "user/name"; the repository is made if there is none, else its index is replaced.
        private: Whether a new repository is private; None: as the account has it.
        token: A token of the hub; None: that of ``hf auth login`` or ``$HF_TOKEN``.

    Returns:
        The URL of the repository.

    Raises:
        OptionError: ``repo_id`` is no name of a repository.
        FormatError: The index is damaged.
        SourceError: The hub refuses, or cannot be reached.

    Example:
        >>> push_index("index", "me/imagenette-index")  # doctest: +SKIP
    """
    check_repo_id(repo_id)
    opened = index if isinstance(index, Index) else open_index(index)
    opened.verify()
    return upload_folder(
        opened.path, repo_id, private=private, token=token, message="Upload the index by dap", replaces="*",
        card=index_card(repo_id, opened),
    )  # fmt: skip


def pull_index(repo_id: str, out: str | Path, *, token: str | None = None) -> Index:
    """Download a feature index from the Hugging Face hub, and check all of its bytes.

    Args:
        repo_id: "user/name", as :func:`push_index` got it.
        out: The folder: new, or empty.
        token: A token of the hub; None: that of ``hf auth login`` or ``$HF_TOKEN``.

    Raises:
        OptionError: ``repo_id`` is no name of a repository, or ``out`` holds something.
        FormatError: A file differs from its recorded hash.
        SourceError: The repository is no index, or the hub refuses or cannot be reached.

    Example:
        >>> pull_index("me/imagenette-index", "index")  # doctest: +SKIP
    """
    out = check_path("out", out)
    check_writable(out)
    if not is_vacant(out):
        raise OptionError(f"{out}: expected a new or an empty folder, this one holds something")
    download_folder(repo_id, out, INDEX, "feature index", token=token)
    index = open_index(out)
    index.verify()
    return index
