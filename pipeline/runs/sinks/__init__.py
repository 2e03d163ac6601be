"""Where a run's figures go, a file each."""
