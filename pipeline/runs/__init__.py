"""What a run leaves behind: its directory, checkpoints, figures and samples."""
