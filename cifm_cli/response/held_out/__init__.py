"""Validation on real cells: all cells of a label in a square are hidden and inferred from the cells around them."""
