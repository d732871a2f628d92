"""Visium downloads of Space Ranger 1 to 4: spots on a hexagonal array, whose pitch of 100 um gives the scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.data.readers.base import Download, ReadConfig, Reader
from cifm_cli.data.readers.spaceranger import (
    IN_TISSUE,
    PIXELS,
    Grid,
    find_positions,
    fit_grid,
    match_positions,
    missing_spots_notes,
    read_positions,
    read_scales,
)
from cifm_cli.data.readers.tenx import find_matrix, read_matrix
from cifm_cli.data.readers.tissue_images import read_plot_content
from cifm_cli.data.units import Scale, require_agreement, to_micrometres
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

RADIUS_UM = 150.0  # paper, B.1
MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
# 10x Genomics, "Space Ranger spatial outputs": neighbouring spots are 100 um apart, every second column of a row.
PITCH_UM = 100.0
_COLUMN_UM, _ROW_UM = PITCH_UM / 2, PITCH_UM * np.sqrt(3) / 2
# The same page calls `spot_diameter_fullres` the diameter of "a theoretical 65 um spot"; Space Ranger 3 writes 70, and
# the spots themselves measure 55. The pitch is exact, so the diameter only serves to detect a wrong image scale.
SPOT_UM = 65.0
SPOT_TOLERANCE, ROW_TOLERANCE = 0.2, 0.02
_SPOT = "spot_diameter_fullres"


def find_counts(folder: Path, stems: tuple[str, ...] = MATRICES) -> Path | None:
    """The first matrix of some names that a folder holds, by default that of spots in the tissue; None if none exists."""
    # The raw matrix holds all spots of the array, most of which lie outside the tissue of a small section.
    return next(filter(None, (find_matrix(folder, stem) for stem in stems)), None)


def _recognises(path: Path) -> bool:
    return path.is_dir() and find_positions(path) is not None


def _read(folder: Path, config: ReadConfig) -> Download:
    """Read matrix, positions and scale factors; spots are matched by barcode."""
    matrix_path, positions_path = find_counts(folder), find_positions(folder)
    if matrix_path is None or positions_path is None:
        missing = "spatial/tissue_positions" if positions_path is None else " or ".join(f"{m}.h5" for m in MATRICES)
        raise CifmError(f"{folder}: a Visium download without {missing}", "copy it from the original download")
    matrix = read_matrix(matrix_path)
    positions = read_positions(positions_path)
    obs = match_positions(positions, matrix.barcodes, positions_path)
    files = [*matrix.files, positions_path]
    scale = None
    if config.microns_per_pixel is None:
        scales, scales_path = read_scales(folder)
        files.append(scales_path)
        scale = derive_scale(fit_grid(positions, positions_path), scales, str(folder))
    images = read_plot_content(folder, config.microns_per_pixel, scale)
    pixels = obs[PIXELS].to_numpy()
    xy_um, units = to_micrometres(pixels, config.microns_per_pixel, ", ".join(PIXELS), scale)
    return Download(
        platform="visium",
        counts=matrix.counts,
        # Coordinates and tissue mask have fields of their own; as columns of `obs` they would be stored twice.
        obs=obs.drop(columns=[IN_TISSUE, *PIXELS]),
        genes=matrix.genes,
        xy_um=xy_um,
        units=units,
        matrix=matrix_path.name,
        files=(*files, *images.files),
        radius_um=RADIUS_UM,
        in_tissue=obs[IN_TISSUE].to_numpy(),
        notes=(*missing_spots_notes(positions, obs), *images.notes),
        uns=images.uns,
    )


VISIUM = Reader("visium", _recognises, _read)


def derive_scale(grid: Grid, scales: dict[str, float], where: str) -> Scale:
    """Derive micrometres per pixel from the pitch of the array, and check it against the diameter of a spot.

    Args:
        grid: Distance in pixels between array columns and between array rows.
        scales: The scale factors.
        where: The download, for the message.

    Returns:
        The scale; from the diameter of a spot if the positions do not determine the pitch.

    Raises:
        CifmError: Two derivations contradict each other, or none is possible.
    """
    # Space Ranger writes no micrometres per pixel for Visium, so the scale is derived from known distances.
    columns = Scale(
        _COLUMN_UM / grid.column_px, f"{PITCH_UM:g} um between spots that are {2 * grid.column_px:.4f} pixels apart"
    )
    rows = Scale(_ROW_UM / grid.row_px, f"rows of spots {grid.row_px:.4f} pixels apart")
    diameter = scales.get(_SPOT, np.nan)
    spot = Scale(
        SPOT_UM / diameter if diameter else np.nan, f"spots of {SPOT_UM:g} um that are {diameter:.4f} pixels wide"
    )
    # In order of precision.
    known = [scale for scale in (columns, rows, spot) if np.isfinite(scale.microns_per_pixel)]
    if not known:
        raise CifmError(
            f"{where}: neither the positions nor {_SPOT} give the scale", "give it with --microns-per-pixel"
        )
    # They disagree if the array positions were swapped, or the image was stretched along one axis.
    require_agreement(columns, rows, ROW_TOLERANCE, where)
    require_agreement(known[0], spot, SPOT_TOLERANCE, where)
    return known[0]
