"""Evaluation: hide cells, predict them with the model and with baselines, and score all predictors alike."""
