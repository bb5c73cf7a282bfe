"""From options to files: the plan, what is there already, the executor, and a finished run opened again."""

from dap.run.finished import OpenedRun, open_run
from dap.run.local import Run, slot_path
from dap.run.plan import plan

__all__ = ["OpenedRun", "Run", "open_run", "plan", "slot_path"]
