"""The argument FOLDER of ``dap evaluate`` and ``dap metrics``: a distilled set, or anything else that dap opens."""

from __future__ import annotations

from pathlib import Path

from dap.config import check_path

__all__ = ["set_argument"]


def set_argument(folder: str) -> str | Path:
    """Return the path of FOLDER if it is there, else its text: a URL, a pattern, a built-in name or an id of the hub.

    Raises:
        OptionError: It is no path.
        SourceError: It is none of these.
    """
    path = check_path("FOLDER", folder)
    if path.exists():
        return path
    from dap.data.hub import is_hub_set
    from dap.data.open import open_source
    from dap.data.shard_paths import is_url

    if not is_url(folder) and not is_hub_set(folder):
        open_source(folder)  # before anything heavy is loaded
    return folder
