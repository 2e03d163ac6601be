"""Whether a step fits a slice and what it costs there, by the TPU's own compiler."""
