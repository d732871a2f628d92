"""Statistics that several commands share: resampling, regression, classification, clustering and scores.

A leaf: it imports NumPy, SciPy and scikit-learn, and no other part of the package.
"""
