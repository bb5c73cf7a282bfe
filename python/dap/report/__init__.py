"""What a person looks at."""

from dap.report.contact_sheet import contact_sheet

__all__ = ["contact_sheet"]
