"""Benchmarks of language models: how their files are read, and what their figures are."""
