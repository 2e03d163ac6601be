"""The part of tools.pod that runs on a slice's hosts: the units, their state, and checks of what is installed."""
