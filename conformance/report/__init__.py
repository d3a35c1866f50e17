"""What the runner found: as data for machines, as a table for the terminal, as a page to show."""

from __future__ import annotations

from tokenmerge.conformance.report.page import html_page
from tokenmerge.conformance.report.record import make_report
from tokenmerge.conformance.report.table import print_report

__all__ = ["html_page", "make_report", "print_report"]
