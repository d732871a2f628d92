"""Pages of the documentation site that are made from the code: commands, recipes, Python API, source and notebooks."""
