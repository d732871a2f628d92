"""What a download holds, before it is prepared; its counts are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.data.readers.base import ReadConfig
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.units import describe_extent

if TYPE_CHECKING:
    from pathlib import Path


def describe_download(path: Path) -> dict[str, Any]:
    """Describe a download, for `cifm inspect`.

    Args:
        path: Folder or file of a platform that `cifm prepare` reads.

    Returns:
        `kind`, the platform, numbers of cells and of features by type, the `extent_um` of the cells, how positions became
        micrometres, the files that were read, notes and warnings of the reader, and the command that prepares it.

    Raises:
        CifmError: The path does not exist, is no download, or is damaged.
    """
    root, reader = find_reader(path)
    download = reader.read(root, ReadConfig())
    types, sizes = np.unique(download.genes["feature_type"].to_numpy(dtype=object).astype(str), return_counts=True)
    placed = download.xy_um[np.isfinite(download.xy_um).all(axis=1)]
    return {
        "kind": "download, not prepared",
        "platform": download.platform,
        "cells": download.counts.shape[0],
        "features": dict(zip(types.tolist(), sizes.tolist(), strict=True)),
        "extent_um": describe_extent(placed),
        "coordinates": download.units,
        "tissue": download.tissue or None,
        "columns": sorted(map(str, download.obs.columns)),
        "files": [file.name for file in download.files],
        "notes": list(download.notes),
        "warnings": list(download.warnings),
        "next": f"cifm prepare {path}",
    }
