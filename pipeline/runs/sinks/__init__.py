"""The sinks of a run's figures, one module each."""
