"""Slide adaptation: what is specific to a slide, fitted in closed form to its visible cells."""
