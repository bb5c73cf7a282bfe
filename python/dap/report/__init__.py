"""Contact sheets, and the card of a set on the hub."""

from dap.report.command_text import command_of
from dap.report.contact_sheet import contact_sheet, sheet_html, sheet_title, source_sheet
from dap.report.hub_card import hub_card

__all__ = ["command_of", "contact_sheet", "hub_card", "sheet_html", "sheet_title", "source_sheet"]
