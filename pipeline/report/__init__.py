"""The HTML page of one run or several: curves, tables, samples; imports neither TensorFlow nor Keras."""
