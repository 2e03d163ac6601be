"""Benchmarks of language models: how to read their files and compute their figures."""
