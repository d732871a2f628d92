"""Sensitivity: how a target changes with an infinitesimal cell at each free place, and a search for edits by it."""
