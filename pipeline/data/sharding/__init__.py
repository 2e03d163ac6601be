"""From documents to shards: tokenize, sort, pack, commit."""
