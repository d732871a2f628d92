"""In-silico perturbation: a tissue is edited, and the model updates the cells around the edits."""
