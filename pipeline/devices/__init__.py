"""Finds accelerators, connects to them, and checks that they are the requested ones."""
