"""Turns text into records on disk, and records into batches."""
