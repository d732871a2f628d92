"""An example of a package that adds a backend, an annotator and a baseline to cifm."""
