"""Sweeps: many runs from one command line, each trained once to its end, whoever is killed meanwhile."""
