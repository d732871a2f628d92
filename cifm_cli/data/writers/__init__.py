"""Writers of `.h5ad` files: prepared, embedded, predicted and simulated slides, and predictions of an evaluation."""
