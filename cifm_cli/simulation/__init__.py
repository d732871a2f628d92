"""In-silico perturbation: cells are injected into a tissue, and the model updates the cells around them."""
