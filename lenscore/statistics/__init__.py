"""The statistics of reports and viewers: sources, verdicts, rates, intervals, and the grid of trained models."""
