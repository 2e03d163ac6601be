"""From gin text to a checked run."""
