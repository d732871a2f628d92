"""Predictors: the model, and the baselines that it is compared with."""
