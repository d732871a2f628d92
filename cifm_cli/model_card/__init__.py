"""The model card of a run: `README.md`, which says what a model was trained on, how well it predicts, and its limits."""
