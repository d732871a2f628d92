"""Cell types: annotators that say what a cell is from its expression; evaluate, probe and simulate use them."""
