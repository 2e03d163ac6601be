"""Tokenizer and generation as TensorFlow graphs, so that a SavedModel takes and returns text."""
