"""The report of some runs: sections with tables and figures, report.md, and the viewer beside them."""

from lenscore.rates.summary import summary_table
from lenscore.reports.report import ReportFiles, write_report

__all__ = ["ReportFiles", "summary_table", "write_report"]
