"""Embeddings of cells and microenvironments, and what a linear classifier reads from them."""
