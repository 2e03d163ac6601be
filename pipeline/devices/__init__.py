"""Which accelerators there are, and whether they are the ones asked for."""
