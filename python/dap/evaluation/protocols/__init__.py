"""Published protocols, one file per lineage: constants beside the lines of code that they were read from."""

from __future__ import annotations

from dap.evaluation.protocols.fkd import D4M, FKD
from dap.evaluation.protocols.hard import HARD, IDC, IGD, MGD3
from dap.evaluation.protocols.rded import RDED

__all__ = ["PUBLISHED"]

PUBLISHED = (HARD, IDC, MGD3, IGD, RDED, FKD, D4M)
