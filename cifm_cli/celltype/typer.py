"""The former place of `open_markers`, for entry points of earlier installations."""

from cifm_cli.celltype.marker_annotator import open_markers

__all__ = ["open_markers"]
