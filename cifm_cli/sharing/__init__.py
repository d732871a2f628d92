"""Sharing of microenvironments between samples: nearest neighbours of embeddings over all samples, and what they have in common."""
