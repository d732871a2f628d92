"""Outlines of segmented cells as Space Ranger 4 writes them for Visium HD, and where the cells lie."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cifm_cli.data.readers.base import open_maybe_gzip, reading
from cifm_cli.data.readers.spaceranger import PIXELS
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

SEGMENTATIONS = ("cell_segmentations.geojson", "graphclust_annotated_cell_segmentations.geojson")
CELL_MATRICES = ("filtered_feature_cell_matrix", "raw_feature_cell_matrix")
_POLYGONS = {"Polygon", "MultiPolygon"}
# The matrix writes cell 17 of the outlines as cellid_000000017-1 (10x Genomics, "Segmented outputs").
_BARCODE = "cellid_{:09d}-1"
_Moments = tuple[float, float, float]


def read_centroids(path: Path) -> pd.DataFrame:
    """Read the outlines of cells, in pixels of the full-resolution image, and keep their centroids.

    Args:
        path: GeoJSON, a feature collection of polygons with the property cell_id.

    Returns:
        Rows indexed by barcode; x and y in the columns of `spaceranger.PIXELS`.

    Raises:
        CifmError: The file is damaged, or a cell has two outlines.
    """
    with reading(path), open_maybe_gzip(path) as handle:
        features = json.load(handle, object_hook=_shrink)["features"]
        numbers = [int(feature["properties"]["cell_id"]) for feature in features]
        places = np.array([feature["geometry"] for feature in features], dtype=np.float64).reshape(-1, 2)
    barcodes = pd.Index([_BARCODE.format(number) for number in numbers], dtype=object)
    if not barcodes.is_unique:
        twice = barcodes[barcodes.duplicated()][0]
        raise CifmError(f"{path}: {twice} has two outlines", "take the segmentation as Space Ranger wrote it")
    return pd.DataFrame(places, index=barcodes, columns=PIXELS)


def _shrink(item: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Replace a polygon by its centroid while the file is parsed, so that the outlines never stand in memory together."""
    if item.get("type") not in _POLYGONS:
        return item
    polygons = [item["coordinates"]] if item["type"] == "Polygon" else item["coordinates"]
    return centroid([np.array(polygon[0], dtype=np.float64)[:, :2] for polygon in polygons])


def centroid(rings: list[np.ndarray[Any, np.dtype[np.float64]]]) -> tuple[float, float]:
    """Centre of the area inside some rings.

    Args:
        rings: Each (K, 2) corners, closed or not.

    Returns:
        x and y; the mean of the corners where there is no area.
    """
    corners = np.concatenate(rings)
    origin = corners.mean(axis=0)  # near the ring, so that large coordinates lose no digits
    area, x, y = np.sum([_moments(ring - origin) for ring in rings], axis=0)
    if area == 0:
        return float(origin[0]), float(origin[1])
    return float(origin[0] + x / area), float(origin[1] + y / area)


def _moments(ring: np.ndarray[Any, np.dtype[np.float64]]) -> _Moments:
    """Area and its first moments, by the shoelace formula."""
    following = np.roll(ring, -1, axis=0)
    cross = ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]
    sign = np.sign(cross.sum())  # rings run either way round
    x, y = sign * ((ring + following) * cross[:, None]).sum(axis=0) / 6
    return float(abs(cross.sum()) / 2), float(x), float(y)
