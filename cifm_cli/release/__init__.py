"""Import of the paper's public release: its files, its tensors, and their translation into a checkpoint."""
