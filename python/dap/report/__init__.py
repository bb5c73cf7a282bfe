"""Contact sheets."""

from dap.report.contact_sheet import contact_sheet, source_sheet

__all__ = ["contact_sheet", "source_sheet"]
