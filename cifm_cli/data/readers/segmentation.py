"""Centroids of segmented cells, from the outlines that Space Ranger 4 writes for Visium HD."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cifm_cli.data.readers.files import open_maybe_gzip, reading
from cifm_cli.data.readers.spaceranger import PIXELS
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

SEGMENTATIONS = ("cell_segmentations.geojson", "graphclust_annotated_cell_segmentations.geojson")
CELL_MATRICES = ("filtered_feature_cell_matrix", "raw_feature_cell_matrix")
_POLYGONS = {"Polygon", "MultiPolygon"}
# The matrix names cell 17 of the outlines cellid_000000017-1 (10x Genomics, "Segmented outputs").
_BARCODE = "cellid_{:09d}-1"
_Moments = tuple[float, float, float]


def read_centroids(path: Path) -> pd.DataFrame:
    """Read the centroids of cells, in pixels of the full-resolution image.

    Args:
        path: GeoJSON, a feature collection of outlines with the property cell_id.

    Returns:
        One row per barcode, the index; x and y in the columns `spaceranger.PIXELS`.

    Raises:
        CifmError: The file is damaged, or a cell has two outlines.
    """
    with reading(path), open_maybe_gzip(path) as handle:
        # With the hook, the memory needed is that of the centroids, not of all outlines.
        features = json.load(handle, object_hook=_polygon_to_centroid)["features"]
        numbers = [int(feature["properties"]["cell_id"]) for feature in features]
        centroids = np.array([feature["geometry"] for feature in features], dtype=np.float64).reshape(-1, 2)
    barcodes = pd.Index([_BARCODE.format(number) for number in numbers], dtype=object)
    if not barcodes.is_unique:
        repeated = barcodes[barcodes.duplicated()][0]
        raise CifmError(f"{path}: {repeated} has two outlines", "take the segmentation as Space Ranger wrote it")
    return pd.DataFrame(centroids, index=barcodes, columns=PIXELS)


def _polygon_to_centroid(item: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    """Replace a polygon by its centroid while the file is parsed, so that the outlines are not all in memory."""
    if item.get("type") not in _POLYGONS:
        return item
    polygons = [item["coordinates"]] if item["type"] == "Polygon" else item["coordinates"]
    # Only the outer ring: the holes of a polygon, which follow it, are ignored.
    # A cell of several polygons has the centroid of their total area.
    return centroid([np.array(polygon[0], dtype=np.float64)[:, :2] for polygon in polygons])


def centroid(rings: list[np.ndarray[Any, np.dtype[np.float64]]]) -> tuple[float, float]:
    """Compute the centroid of the area inside one or more rings.

    Args:
        rings: (K, 2) corners of each ring; the last corner may repeat the first.

    Returns:
        x and y; the mean of the corners if the area is zero.
    """
    corners = np.concatenate(rings)
    origin = corners.mean(axis=0)  # subtracted, as products of large coordinates would lose digits
    area, x, y = np.sum([_moments(ring - origin) for ring in rings], axis=0)
    # An outline may collapse to a line or a point in the pixels of the image.
    if area == 0:
        return float(origin[0]), float(origin[1])
    return float(origin[0] + x / area), float(origin[1] + y / area)


def _moments(ring: np.ndarray[Any, np.dtype[np.float64]]) -> _Moments:
    """Area of a ring and its first moments, by the shoelace formula."""
    following = np.roll(ring, -1, axis=0)
    cross = ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]
    sign = np.sign(cross.sum())  # corners run clockwise or counterclockwise
    x, y = sign * ((ring + following) * cross[:, None]).sum(axis=0) / 6
    return float(abs(cross.sum()) / 2), float(x), float(y)
