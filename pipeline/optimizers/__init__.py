"""The optimizers, their settings and the schedules of the learning rate."""
