"""From options to files: jobs, their plan and output folder, the executor, and finished runs opened again."""

from dap.run.finished import OpenedRun, open_run, ranking
from dap.run.folder import SHEET, RunFolder
from dap.run.job import Job, Request, resolve
from dap.run.local import execute
from dap.run.plan import plan
from dap.run.ranks import Rank, own_device, own_rank
from dap.run.workers import worker_processes

__all__ = [
    "SHEET", "Job", "OpenedRun", "Rank", "Request", "RunFolder", "execute", "open_run",
    "own_device", "own_rank", "plan", "ranking", "resolve", "worker_processes",
]  # fmt: skip
