"""Embeddings: computing those of every cell of a slide, and probing them with a linear classifier."""
