"""Means of the visible cells around a place, and blends of them; baselines and slide adaptation use them."""
