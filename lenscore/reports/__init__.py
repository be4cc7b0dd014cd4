"""From verdicts and lens results to what people read: tables with intervals, figures, and the viewer."""

from lenscore.reports.report import ReportFiles, write_report
from lenscore.reports.summary import summary_table

__all__ = ["ReportFiles", "summary_table", "write_report"]
