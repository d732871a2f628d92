"""Statistics used by several commands: resampling, regression, classification, clustering and scores.

A leaf: of this package it imports other leaves only.
"""
