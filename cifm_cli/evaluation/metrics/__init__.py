"""Metrics of predicted expression, each in the file named after what it measures."""
