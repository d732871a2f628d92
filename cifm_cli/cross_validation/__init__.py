"""Cross-validation over slides: leave one slide, sample or patient out, train on the others, and evaluate what was left out."""
