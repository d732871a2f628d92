"""Visium HD downloads: square bins of one size, or the cells that Space Ranger 4 segments in the image."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.data.readers.base import Download, ReadConfig, Reader
from cifm_cli.data.readers.segmentation import CELL_MATRICES, SEGMENTATIONS, read_centroids
from cifm_cli.data.readers.spaceranger import (
    IN_TISSUE,
    PIXELS,
    POSITIONS_PARQUET,
    Grid,
    check_bin_names,
    fit_grid,
    match_positions,
    missing_spots_notes,
    read_positions,
    read_scales,
)
from cifm_cli.data.readers.tenx import read_matrix
from cifm_cli.data.readers.tissue_images import read_plot_content
from cifm_cli.data.readers.visium import MATRICES, find_counts
from cifm_cli.data.units import Scale, require_agreement, to_micrometres
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

RADIUS_UM = 20.0  # paper, B.1, for bins of 8 um; cells are about as large
_PAPER_BIN_UM = 8.0
_BINNED, _SEGMENTED = "binned_outputs", "segmented_outputs"
_SQUARE = re.compile(r"square_(\d{3})um")
_CELLS_NOTE = f"the download also has segmented cells; give its folder {_SEGMENTED} to prepare those"
_DECLARED, _BIN_SIZE = "microns_per_pixel", "bin_size_um"
# The bins are printed on the slide at a known distance, so the tolerance is far stricter than for the width of a spot.
GRID_TOLERANCE = 0.01  # genuine files agree to 0.0005


def _recognises(path: Path) -> bool:
    return path.is_dir() and (_is_segmented(path) or (path / POSITIONS_PARQUET).is_file() or bool(_bins(path)))


def _is_segmented(path: Path) -> bool:
    return any((path / name).is_file() for name in SEGMENTATIONS)


def _bins(path: Path) -> dict[int, Path]:
    """Bin folders of a download by their size in micrometres."""
    # The user may give the download, or its folder `binned_outputs`.
    folders = [*path.glob("square_*um"), *(path / _BINNED).glob("square_*um")]
    matches = {folder: _SQUARE.fullmatch(folder.name) for folder in sorted(folders)}
    return {int(match.group(1)): folder for folder, match in matches.items() if match}


def _read(folder: Path, config: ReadConfig) -> Download:
    """Read the bins of size `config.bin_um`, or the segmented cells if the folder holds only those."""
    if _is_segmented(folder):
        return _read_cells(folder, config)
    if (folder / POSITIONS_PARQUET).is_file():
        return _read_bins(folder, config)
    bins = _bins(folder)
    if config.bin_um in bins:
        download = _read_bins(bins[config.bin_um], config)
        notes = (_CELLS_NOTE,) if _is_segmented(folder / _SEGMENTED) else ()
        return replace(download, notes=download.notes + notes)
    # Bins are preferred if there are both: the paper uses bins of 8 um.
    if not bins and _is_segmented(folder / _SEGMENTED):
        return _read_cells(folder / _SEGMENTED, config)
    sizes = " and ".join(f"{size} um" for size in bins) or "none"
    raise CifmError(
        f"{folder}: no bins of {config.bin_um} um (there are {sizes})",
        "choose others with --bin-um" if bins else f"give the folder that holds {_BINNED} or {POSITIONS_PARQUET}",
    )


VISIUM_HD = Reader("visium_hd", _recognises, _read)


def _read_bins(folder: Path, config: ReadConfig) -> Download:
    matrix_path, positions_path = find_counts(folder), folder / POSITIONS_PARQUET
    if matrix_path is None:
        raise CifmError(
            f"{folder}: Visium HD bins without {' or '.join(f'{stem}.h5' for stem in MATRICES)}",
            "copy it from the original download",
        )
    matrix = read_matrix(matrix_path)
    positions = read_positions(positions_path)
    check_bin_names(positions, positions_path)
    obs = match_positions(positions, matrix.barcodes, positions_path)
    scales, scales_path = read_scales(folder)
    bin_um = scales.get(_BIN_SIZE, np.nan)
    scale = None
    if config.microns_per_pixel is None:
        scale = derive_scale(fit_grid(positions, positions_path), scales, str(folder))
    xy_um, units = to_micrometres(obs[PIXELS].to_numpy(), config.microns_per_pixel, ", ".join(PIXELS), scale)
    images = read_plot_content(folder, config.microns_per_pixel, scale)
    return Download(
        platform="visium_hd",
        counts=matrix.counts,
        obs=obs.drop(columns=[IN_TISSUE, *PIXELS]),
        genes=matrix.genes,
        xy_um=xy_um,
        units=units,
        matrix=f"{folder.name}/{matrix_path.name}",
        files=(*matrix.files, positions_path, scales_path, *images.files),
        # For other bins, the radius is derived from the spacing.
        radius_um=RADIUS_UM if bin_um == _PAPER_BIN_UM else None,
        in_tissue=obs[IN_TISSUE].to_numpy(),
        notes=(f"bins of {bin_um:g} um", *missing_spots_notes(positions, obs), *images.notes),
        uns=images.uns,
    )


def derive_scale(grid: Grid, scales: dict[str, float], where: str) -> Scale:
    """Take the declared micrometres per pixel, and check it against the size of the bins.

    Args:
        grid: Distance in pixels between array columns and between array rows.
        scales: The scale factors.
        where: The folder, for the message.

    Returns:
        The declared scale, or if none is declared, the scale of the grid.

    Raises:
        CifmError: Two derivations contradict each other, or none is possible.
    """
    bin_um = scales.get(_BIN_SIZE, np.nan)
    declared = Scale(scales.get(_DECLARED, np.nan), f"{_DECLARED} of the scale factors")
    pitches = [
        Scale(bin_um / pixels, f"{line} of {bin_um:g} um bins {pixels:.4f} pixels apart")
        # Columns and rows are compared one by one, so that an image that is stretched along one axis is noticed.
        for line, pixels in zip(("columns", "rows"), grid, strict=True)
    ]
    known = [scale for scale in (declared, *pitches) if np.isfinite(scale.microns_per_pixel)]
    if not known:
        raise CifmError(f"{where}: no {_DECLARED} in the scale factors", "give it with --microns-per-pixel")
    for pitch in pitches:
        require_agreement(known[0], pitch, GRID_TOLERANCE, where)
    return known[0]


def _read_cells(folder: Path, config: ReadConfig) -> Download:
    """Read segmented cells; the position of a cell is the centroid of its outline."""
    matrix_path = find_counts(folder, CELL_MATRICES)
    outlines_path = next(folder / name for name in SEGMENTATIONS if (folder / name).is_file())
    if matrix_path is None:
        raise CifmError(
            f"{folder}: segmented cells without {CELL_MATRICES[0]}.h5", "copy it from the original download"
        )
    matrix = read_matrix(matrix_path)
    centroids = read_centroids(outlines_path)
    obs = match_positions(centroids, matrix.barcodes, outlines_path)
    files, scale = [*matrix.files, outlines_path], None
    if config.microns_per_pixel is None:
        scales, scales_path = read_scales(folder)
        files.append(scales_path)
        # Cells form no grid, so the declared scale cannot be checked against one.
        scale = derive_scale(Grid(np.nan, np.nan), scales, str(folder))
    xy_source = f"centroids of {outlines_path.name}"
    xy_um, units = to_micrometres(obs[PIXELS].to_numpy(), config.microns_per_pixel, xy_source, scale)
    images = read_plot_content(folder, config.microns_per_pixel, scale)
    return Download(
        platform="visium_hd",
        counts=matrix.counts,
        obs=obs.drop(columns=PIXELS),
        genes=matrix.genes,
        xy_um=xy_um,
        units=units,
        matrix=f"{folder.name}/{matrix_path.name}",
        files=(*files, *images.files),
        radius_um=RADIUS_UM,
        notes=("segmented cells; give binned_outputs for bins", *images.notes),
        uns=images.uns,
    )
