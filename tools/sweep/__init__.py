"""Sweeps: many runs from one command line, each trained once to its end, whichever processes are killed meanwhile."""
