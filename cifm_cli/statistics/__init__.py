"""Statistics that several commands need: resampling, regression, clustering and scores. A leaf."""
