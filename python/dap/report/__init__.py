"""Contact sheets."""

from dap.report.contact_sheet import contact_sheet, sheet_title, source_sheet

__all__ = ["contact_sheet", "sheet_title", "source_sheet"]
