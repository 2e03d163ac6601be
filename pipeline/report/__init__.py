"""The HTML page for one or more runs: curves, tables, samples; imports neither TensorFlow nor Keras."""
