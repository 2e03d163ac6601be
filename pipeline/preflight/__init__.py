"""Checks with the TPU compiler whether a step fits a slice, and what it costs there."""
