"""Processes by machine and number, and the temporary names that they give: on a shared disk others write too."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from contextlib import suppress
from pathlib import Path

__all__ = ["HOST", "TEMPORARY", "process_is_alive", "temporary_name", "temporary_owner"]

# a process, the machine in names of this version, a random number; more digits at the end of a tar file
TEMPORARY = re.compile(r"\.tmp-(\d{1,10})-(?:([0-9a-f]{8})-)?[0-9a-f]{8}\d{0,10}")


def _host() -> str:
    """Return a name for the processes that see each other by number: the machine's, and that of their namespace."""
    name = re.sub(r"[^A-Za-z0-9.]", ".", socket.gethostname())
    with suppress(OSError):  # containers on one machine may have its name
        return f"{name}.{Path('/proc/self/ns/pid').stat().st_ino}"
    return name


HOST = _host()
_HOST_HASH = hashlib.sha256(HOST.encode()).hexdigest()[:8]


def temporary_name() -> str:
    """Return a new name for a temporary file or folder of this process."""
    return f".tmp-{os.getpid()}-{_HOST_HASH}-{secrets.token_hex(4)}"


def temporary_owner(name: str) -> int | None:
    """Return the number of the process that gave this temporary name.

    None if the name is not one of dap's, or a process of another machine gave it.

    Example:
        >>> temporary_owner(".tmp-4711-0123abcd"), temporary_owner(".tmp-thesis.txt")
        (4711, None)
    """
    match = TEMPORARY.fullmatch(name)
    return int(match[1]) if match and match[2] in (None, _HOST_HASH) else None


def process_is_alive(process: int) -> bool:
    """Return whether a process of this number runs on this machine; False where that cannot be asked.

    One that has ended, but whose parent has not taken note of it, does not run.
    """
    if os.name != "posix":  # os.kill would end the process there
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # another user's
    with suppress(OSError):  # only Linux has the file
        return not Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2].startswith((b"Z", b"X"))
    return True
