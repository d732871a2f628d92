"""Inference tile by tile with a trained model; embed, predict, evaluate and simulate use it."""
