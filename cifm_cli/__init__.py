"""cifm: train, measure and use the Cellular Interaction Foundation Model (You et al. 2025)."""

__version__ = "0.1.0"
