"""The same number of threads for all contenders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dap.errors import OptionError

__all__ = ["equal_threads"]


@contextmanager
def equal_threads(count: int) -> Iterator[None]:
    """Gives torch and every BLAS and OpenMP library that is loaded by now this number of threads, for the block.

    That covers numpy, SciPy, scikit-learn, faiss and what KeOps has compiled. dap's own is an argument of its calls.

    Raises:
        OptionError: If threadpoolctl is not installed.

    Example:
        >>> with equal_threads(1):
        ...     torch.get_num_threads()
        1
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise OptionError("the bench needs threadpoolctl: pip install 'dap-distill[bench]'") from error
    before = torch.get_num_threads()
    try:
        with threadpool_limits(count):
            torch.set_num_threads(count)
            yield
    finally:
        torch.set_num_threads(before)
