"""Reports of runs: sections with tables and figures, report.md, and the viewer."""
