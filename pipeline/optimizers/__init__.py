"""The optimizers, their settings and the learning-rate schedules."""
