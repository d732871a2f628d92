"""The honest judge: hide cells, let the model and the trivial predictors infer them, score all alike."""
