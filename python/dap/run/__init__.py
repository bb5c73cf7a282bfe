"""From options to files: the plan, what is there already, and the executor."""

from dap.run.local import Run, slot_path
from dap.run.plan import plan

__all__ = ["Run", "plan", "slot_path"]
