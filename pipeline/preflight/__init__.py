"""Checks with the TPU's own compiler whether a step fits a slice, and what it costs there."""
