"""Turns shards into batches: batch n is a function of the manifest, the seed, n and the global batch."""
