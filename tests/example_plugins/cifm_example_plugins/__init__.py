"""A backend, an annotator and a baseline for cifm."""
