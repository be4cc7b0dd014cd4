"""What the rates of a report and a viewer are counted from: runs, verdicts, intervals, and which model is which."""
