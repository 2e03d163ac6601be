"""From shards to batches: batch n is a function of the manifest, the seed, n and the global batch."""
