"""Edits of a tissue: cells that are injected, removed or swapped, and genes that are knocked out or overexpressed."""
