"""Training: read `loop.py` top to bottom."""
