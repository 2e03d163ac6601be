"""A run's results: its directory, checkpoints, figures and samples."""
