"""Cell types: annotators, the registry of their plugins, and the annotation of slides."""
