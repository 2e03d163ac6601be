"""Sweeps: many runs from one command line, each completed once, whichever processes are killed."""
