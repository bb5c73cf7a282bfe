"""The public function that says before a run what it will take."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from dap.config import check_choice, check_path
from dap.data.open import SourceLike
from dap.device import resolve_device
from dap.run import Request, resolve
from dap.run.forecast import Forecast, forecast
from dap.run.stopwatch import Stopwatch
from dap.storage.files import check_writable
from dap.torch_state import own_torch_state

__all__ = ["plan"]


@own_torch_state()
def plan(
    source: SourceLike | None = None, *, out: str | Path | None = None, batch_size: int | None = None, **options: Any
) -> Forecast:
    """Say what a run will take before it is started: units, operations, memory, disk and time.

    A small part of the run, at most about a twentieth of it, is made and thrown away; sampling takes at most a few
    minutes of it, unless a single slot takes longer. Nothing is written but to a temporary folder.

    Args:
        source: As for :func:`distill`.
        out: Where the run will be written; its disk is looked at. The current folder's, if left out.
        batch_size: As for :func:`distill`.
        **options: Those of :func:`distill` from ``prior`` to ``channels``, such as ``method``, ``ipc`` and ``device``.

    Raises:
        DapError: What :func:`distill` would raise before it begins; or memory or a disk cannot hold the run.

    Example:
        >>> import dap
        >>> print(dap.plan("fashion-mini", method="dap_set", ipc=50))  # doctest: +SKIP
    """
    for name in options:
        check_choice("option", name, [entry.name for entry in fields(Request)])
    watch = Stopwatch(resolve_device(options.get("device")))
    job = resolve(Request(source=source, **options))
    if out is not None:
        out = check_path("out", out)
        check_writable(out)
    with own_torch_state(tf32=job.tf32):
        return forecast(job, out, batch_size, watch.read())
