"""Writers of `.h5ad` files: prepared, embedded, predicted and simulated slides."""
