"""Command lines, and the parts that they bring together: data, training, devices."""
