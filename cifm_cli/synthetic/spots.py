"""Spots and bins over a synthetic tissue, written in the layouts of Space Ranger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from cifm_cli.data.readers.spaceranger import ARRAY, BARCODE, IN_TISSUE, PIXELS, POSITIONS_PARQUET
from cifm_cli.data.readers.visium import PITCH_UM, SPOT_UM
from cifm_cli.provenance import numpy_generator
from cifm_cli.synthetic.files import write_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# Half of the diameter of a printed spot, 55 um.
_SPOT_RADIUS_UM = 27.5
_VISIUM_UM_PER_PIXEL, _HD_UM_PER_PIXEL = 0.5, 0.2738
_BIN_UM = 8.0
_CELL_RADIUS_UM = 6.0
# Every bin with molecules is in the tissue: a molecule is at most 6 um from
# the centre of its cell, and 5.7 um from that of its bin.
_BIN_IN_TISSUE_UM = 12.0
_ROWS = 4096
_ODD_PRIME = 2_654_435_761  # multiples of an odd number are distinct modulo a power of two


def write_spots(
    folder: Path, xy_um: NDArray[np.float64], blocks: Iterable[csr_matrix], features: pd.DataFrame, seed: int
) -> None:
    """Write a Visium download. The counts of a spot are the sum over the cells whose centres it covers.

    Args:
        folder: Folder to write; created if missing.
        xy_um: (N, 2) cell centres.
        blocks: (n, G) counts of consecutive cells.
        features: G rows with columns id, symbol and feature_type.
        seed: Seed of the barcodes.
    """
    spots_um, array = _hexagonal_array(xy_um.max(axis=0))
    spot_of_cell = cKDTree(spots_um).query(xy_um, distance_upper_bound=_SPOT_RADIUS_UM)[1]  # len(spots_um) for none
    in_tissue = np.isin(np.arange(len(spots_um)), spot_of_cell)
    total = csr_matrix((len(spots_um), len(features)), dtype=np.int32)
    start = 0
    for block in blocks:
        spot = spot_of_cell[start : (start := start + block.shape[0])]
        covered = np.flatnonzero(spot < len(spots_um))
        entries = (np.ones(len(covered), dtype=np.int32), (spot[covered], covered))
        total = total + csr_matrix(entries, shape=(len(spots_um), block.shape[0])) @ block
    table = _positions(_spot_barcodes(len(spots_um), seed), in_tissue, array, spots_um / _VISIUM_UM_PER_PIXEL)
    (folder / "spatial").mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "spatial/tissue_positions.csv", index=False, float_format="%.6f")
    diameter = SPOT_UM / _VISIUM_UM_PER_PIXEL
    _write_scales(folder, {"spot_diameter_fullres": diameter, "fiducial_diameter_fullres": diameter * 1.6154})
    barcodes = table[BARCODE].to_numpy(dtype=str)[in_tissue]
    matrix = folder / "filtered_feature_bc_matrix.h5"
    write_matrix(matrix, [csr_matrix(total[in_tissue])], barcodes, features, "Visium (synthetic)")


def write_bins(
    folder: Path, xy_um: NDArray[np.float64], blocks: Iterable[csr_matrix], features: pd.DataFrame, seed: int
) -> None:
    """Write a Visium HD download. Molecules are placed around the centres of their cells and counted in bins of 8 um.

    Args:
        folder: Folder to write, which will hold `binned_outputs`; created if missing.
        xy_um: (N, 2) cell centres.
        blocks: (n, G) counts of consecutive cells.
        features: G rows with columns id, symbol and feature_type.
        seed: Seed of the positions of molecules.
    """
    # The origin is a multiple of the bin size, so that the same cell is in the same bin for any extent of the tissue.
    origin_um = _BIN_UM * np.floor((xy_um.min(axis=0) - _CELL_RADIUS_UM) / _BIN_UM)
    num_columns, num_rows = np.ceil((xy_um.max(axis=0) + _CELL_RADIUS_UM - origin_um) / _BIN_UM).astype(int)
    row, column = np.divmod(np.arange(num_rows * num_columns), num_columns)
    array = np.column_stack([column, row])
    bins_um = (array + 0.5) * _BIN_UM + origin_um
    in_tissue = np.isfinite(cKDTree(xy_um).query(bins_um, distance_upper_bound=_BIN_IN_TISSUE_UM)[0])
    barcodes = np.char.mod("s_008um_%05d_", row)
    barcodes = np.char.add(barcodes, np.char.mod("%05d-1", column))
    square = folder / "binned_outputs/square_008um"
    (square / "spatial").mkdir(parents=True, exist_ok=True)
    table = _positions(barcodes, in_tissue, array, bins_um / _HD_UM_PER_PIXEL)
    table.to_parquet(square / POSITIONS_PARQUET, index=False, write_page_checksum=True)
    scales = {
        "spot_diameter_fullres": _BIN_UM / _HD_UM_PER_PIXEL,
        "bin_size_um": _BIN_UM,
        "microns_per_pixel": _HD_UM_PER_PIXEL,
    }
    _write_scales(square, scales)
    molecules = _molecules(xy_um - origin_um, blocks, int(num_columns), len(features), seed)
    counted = _count(molecules, np.flatnonzero(in_tissue), len(features))
    matrix = square / "filtered_feature_bc_matrix.h5"
    write_matrix(matrix, counted, barcodes[in_tissue], features, "Visium HD (synthetic)")


def _hexagonal_array(extent_um: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres of spots from the origin to beyond the tissue, and their array positions (column, row)."""
    step_um = np.array([PITCH_UM / 2, PITCH_UM * np.sqrt(0.75)])
    num_columns, num_rows = np.ceil(extent_um / step_um).astype(int) + 2
    row, column = np.divmod(np.arange(num_rows * num_columns), num_columns)
    array = np.column_stack([column, row])[(row + column) % 2 == 0]  # a row uses every second column
    return array * step_um, array


def _molecules(
    xy_um: NDArray[np.float64], blocks: Iterable[csr_matrix], num_columns: int, num_genes: int, seed: int
) -> NDArray[np.int64]:
    """Bin and gene of every molecule as one number, bin * num_genes + gene, sorted."""
    molecules_of_blocks, start = [], 0
    for block in blocks:
        # One generator per block, so that the positions do not depend on the blocks before.
        generator = numpy_generator(seed, "molecules", start)
        cell = np.repeat(np.arange(start, start + block.shape[0]), np.asarray(block.sum(axis=1)).ravel())
        angle = generator.uniform(0, 2 * np.pi, size=len(cell))
        # The square root gives a uniform density in the disc.
        distance_um = _CELL_RADIUS_UM * np.sqrt(generator.random(len(cell)))
        molecule_um = xy_um[cell] + distance_um[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        column, row = (molecule_um // _BIN_UM).astype(np.int64).T
        # One number per molecule needs half the memory of two, and sorts by bin and gene at once.
        molecules_of_blocks.append((row * num_columns + column) * num_genes + np.repeat(block.indices, block.data))
        start += block.shape[0]
    molecules = np.concatenate(molecules_of_blocks)
    molecules.sort()
    return molecules


def _count(molecules: NDArray[np.int64], bins: NDArray[np.int64], num_genes: int) -> Iterator[csr_matrix]:
    """(n, num_genes) counts of consecutive bins."""
    # The molecules are sorted by bin, so those of consecutive bins are a slice.
    for start in range(0, len(bins), _ROWS):
        block = bins[start : start + _ROWS]
        ends = np.searchsorted(molecules, [block[0] * num_genes, (block[-1] + 1) * num_genes])
        bin_of, gene = np.divmod(molecules[slice(*ends)], num_genes)
        entries = (np.ones(len(gene), dtype=np.int32), (np.searchsorted(block, bin_of), gene))
        yield csr_matrix(entries, shape=(len(block), num_genes))


def _spot_barcodes(num_spots: int, seed: int) -> NDArray[np.str_]:
    """Distinct barcodes of sixteen letters and `-1`."""
    first = int(numpy_generator(seed, "spots").integers(4**16))
    # Distinct by construction, where random barcodes could collide.
    numbers = (first + np.arange(num_spots) * _ODD_PRIME) % 4**16
    letters = np.array(list("ACGT"))[(numbers[:, None] >> np.arange(30, -1, -2)) & 3]
    return np.char.add(np.ascontiguousarray(letters).view("U16").ravel(), "-1")


def _positions(
    barcodes: NDArray[np.str_], in_tissue: NDArray[np.bool_], array: NDArray[np.int64], pixels: NDArray[np.float64]
) -> pd.DataFrame:
    """The table of positions with the columns of Space Ranger, in its order: y before x."""
    columns = dict(zip([*ARRAY[::-1], *PIXELS[::-1]], [*array.T[::-1], *pixels.T[::-1]], strict=True))
    return pd.DataFrame({BARCODE: barcodes, IN_TISSUE: in_tissue.astype(np.int64), **columns})


def _write_scales(folder: Path, scales: dict[str, float]) -> None:
    content = {**scales, "tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.03}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(content), encoding="utf8")
