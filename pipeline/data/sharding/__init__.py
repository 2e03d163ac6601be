"""Turns documents into shards: tokenize, sort, pack, commit."""
