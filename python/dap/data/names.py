"""Class names as folder names, and short lists of names for messages.

A class name may have any characters, a folder name may not. :func:`escape` percent-encodes (UTF-8) the characters that
some file system rejects or interprets; :func:`unescape` reverses it and leaves other folder names as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dap.errors import ClassMapError

__all__ = ["check_folder_names", "escape", "readable", "some", "unescape"]

MAX_BYTES = 255  # of one name, on every common file system
EMPTY = "%"  # folder name of the class name ""; unambiguous, since other percent signs are escaped
UNSAFE = re.compile(r'[/\\:*?"<>|%\x00-\x1f\x7f-\x9f\ud800-\udfff]|^\.|[. ]\Z')
RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(?:\.|\Z)", re.IGNORECASE)
SURROGATE = re.compile("[\ud800-\udfff]")
ESCAPED = re.compile(r"(?:%[0-9A-F]{2})+")


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def escape(name: str) -> str:
    r"""The folder name of a class name: safe on the file systems of Linux, macOS and Windows, and reversible.

    Escaped are ``/ \ : * ? " < > | %``, control characters, lone surrogates, a leading dot, a trailing dot or space,
    and the first letter of the names that Windows keeps for devices (``CON``, ``nul.txt``). Names that differ only in
    case stay different; a file system that ignores case will not tell them apart.

    Example:
        >>> escape("T-shirt/top"), escape("Ankle boot"), escape("aux")
        ('T-shirt%2Ftop', 'Ankle boot', '%61ux')
    """
    if not name:
        return EMPTY
    folder = UNSAFE.sub(lambda match: _percent(match[0]), name)
    return _percent(folder[0]) + folder[1:] if RESERVED.match(folder) else folder


def unescape(folder: str) -> str:
    """The class name of a folder: reverses :func:`escape`, and keeps a name that ``escape`` never returns.

    Example:
        >>> unescape("T-shirt%2Ftop"), unescape("100%"), unescape("%41")
        ('T-shirt/top', '100%', '%41')
    """
    if folder == EMPTY:
        return ""
    try:
        name = ESCAPED.sub(
            lambda match: bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogatepass"), folder
        )
    except UnicodeDecodeError:
        return folder
    return name if escape(name) == folder else folder


def readable(name: str) -> str:
    r"""A name as valid Unicode: bytes of a path that are no UTF-8 (lone surrogates) are percent-encoded.

    Example:
        >>> readable("caf\udce9"), readable("café")
        ('caf%E9', 'café')
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return SURROGATE.sub(lambda match: "".join(f"%{byte:02X}" for byte in _bytes(match[0])), name)
    return name


def _bytes(surrogate: str) -> bytes:
    return surrogate.encode("utf-8", "surrogateescape" if "\udc80" <= surrogate <= "\udcff" else "surrogatepass")


def check_folder_names(names: Iterable[str]) -> None:
    """Raise ClassMapError unless each class name can be the name of a folder and stand in a manifest.

    Raises:
        ClassMapError: Its folder would have more than 255 bytes, or it is not text in Unicode.
    """
    for name in names:
        length = len(escape(name).encode())
        if length > MAX_BYTES:
            raise ClassMapError(
                f"class {name[:40] + '…'!r}: expected a name whose folder has at most {MAX_BYTES} bytes, got {length}: "
                "give the classes shorter names"
            )
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise ClassMapError(f"class {name!r}: expected a name in Unicode, got bytes of another encoding: rename it")


def some(names: Sequence[object], limit: int = 5) -> str:
    """The first names of a list that may be long, for a message.

    Example:
        >>> some(["a", "b", "c"], limit=2)
        "'a', 'b' and 1 more"
    """
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
