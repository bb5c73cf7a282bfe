"""Makes an entry of the cache that is one safetensors file, together with the other processes that want it.

One process writes the file, block by block (:mod:`dap.storage.tensors`). The others would only wait; so they compute
the blocks that come next, and leave each as a file ``blocks/<number>.npy`` beside the unfinished one, where the writer
finds it. Each block is claimed by the process that computes it. A block depends on its number alone, so the entry has
the same bytes whoever computes it, and whoever is killed.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dap.stopping import check_stop
from dap.storage.cache import RESULT, CacheEntry
from dap.storage.claims import Claims, pauses
from dap.storage.files import write_atomic
from dap.storage.tensors import blocks_in, continue_tensors
from dap.storage.unfinished import AHEAD, continued, unfinished_folder

__all__ = ["make_tensors"]

Blocks: TypeAlias = Callable[[int], npt.NDArray[np.floating]]


def make_tensors(
    entry: CacheEntry, shapes: Mapping[str, Sequence[int]], rows: Sequence[int], block: Blocks, dtype: str = "float32"
) -> Generator[int, None, None]:
    """Make an entry; the arguments are those of :func:`dap.storage.tensors.continue_tensors`.

    Args:
        entry: The entry, which is not there.
        shapes: The shape of each tensor by its name, in the order of the file.
        rows: The number of values of each block.
        block: Returns a block by its number. It is called by every process that wants the entry.
        dtype: "float32" or "float16".

    Yields:
        In the process that writes the file, how many blocks it has: first those that were there. In the others
        nothing; the entry is there at the end.

    Raises:
        OptionError: The cache cannot be written.
        StoppedError: The run is to end.
    """
    folder = unfinished_folder(entry)

    def ahead(claims: Claims, result: Path) -> _Ahead:
        return _Ahead(entry, claims, block, lambda: blocks_in(result, shapes, rows, dtype), len(rows))

    with continued(entry, help=lambda _, claims: ahead(claims, folder / RESULT).compute_all()) as unfinished:
        if unfinished is not None:
            result = unfinished.folder / RESULT
            if unfinished.folder != folder:  # a stalled process has it: its whole blocks are taken over
                with suppress(OSError):
                    shutil.copyfile(folder / RESULT, result)
            blocks = ahead(unfinished.claims, result)
            try:
                yield from continue_tensors(result, shapes, rows, blocks.next_block, dtype)
            finally:
                blocks.release()


class _Ahead:
    """The blocks of one entry that are computed before the file has come to them.

    Args:
        entry: The entry.
        claims: This process among those that use the cache.
        block: Computes a block.
        written: Returns how many blocks the file has.
        count: The number of blocks.
    """

    def __init__(
        self, entry: CacheEntry, claims: Claims, block: Blocks, written: Callable[[], int], count: int
    ) -> None:
        self._entry, self._folder, self._claims = entry, unfinished_folder(entry) / AHEAD, claims
        self._block, self._written, self._count = block, written, count
        self._given: int | None = None  # the block that the writer got last, which the file does not have yet

    def next_block(self, number: int) -> npt.NDArray[np.floating]:
        """Return a block to the writer, which has written the one before it.

        While another process computes it, this one computes later ones.
        """
        self.release()
        waits = pauses()
        while not self._claims.take(self._name(number)):
            check_stop(self._entry.path)
            worked = False
            with suppress(OSError):  # a block that cannot be kept
                worked = self._compute_one(number + 1)
            if not worked:
                time.sleep(next(waits))
        self._given = number
        try:
            values: npt.NDArray[np.floating] = np.load(self._path(number), allow_pickle=False)
        except (OSError, ValueError, EOFError):  # it is not there, or was taken
            return self._block(number)
        return values

    def release(self) -> None:
        """End the claim of the block that the writer has got, which is in the file now, or is not wanted."""
        if self._given is not None:
            with suppress(OSError):  # empty, since other processes may not see the file that has it
                self._path(self._given).write_bytes(b"")
            self._claims.release(self._name(self._given))
            self._given = None

    def compute_all(self) -> None:
        """Compute blocks until there is none that is free."""
        while self._folder.parent.is_dir() and not self._entry.exists() and self._compute_one(0):
            check_stop(self._entry.path)

    def _compute_one(self, first: int) -> bool:
        """Compute the first free block from a number on, and leave it as a file; return whether there was one."""
        taken = self._claims.taken()
        for number in range(max(first, self._written()), self._count):
            name, path = self._name(number), self._path(number)
            if name in taken or path.exists() or not self._claims.take(name):
                continue
            try:
                if number >= self._written() and not path.exists():  # another may have ended its claim since the look
                    data = io.BytesIO()
                    np.save(data, self._block(number))
                    with suppress(FileExistsError):
                        self._folder.mkdir()
                    write_atomic(path, data.getvalue())
                    return True
            finally:
                self._claims.release(name)
        return False

    def _name(self, number: int) -> str:
        return f"{self._entry.path.parent.name}-{self._entry.path.name}-{number}"

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.npy"
