"""Simulation: inject cells into a tissue, let the model update the others step by step, and compare with no injection."""
