"""Reports of runs: sections with tables and figures, report.md, and the viewer."""

from lenscore.reports.writing import ReportFiles, write_report
from lenscore.statistics.summary import summary_table

__all__ = ["ReportFiles", "summary_table", "write_report"]
