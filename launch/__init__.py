"""Where the work runs: the command line and the clusters."""
