"""Conversion of coordinates to micrometres, the graph radius, and checks that the coordinates are micrometres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

# Gives 20 neighbours on a square grid and 18 on a hexagonal one; no distance between lattice points equals the radius.
# The paper chooses the same for bins of 8 um: 20 um.
RADIUS_IN_SPACINGS = 2.5
PLAUSIBLE_SPACING_UM = (0.4, 400.0)  # from subcellular bins to the spots of the first spatial arrays
MIN_DEGREE, MAX_DEGREE = 0.1, 200.0  # mean degrees outside this range are refused
_LOW_DEGREE = 3.0  # the user is warned of a lower mean degree
_SPACING_CELLS = 5_000  # cells whose nearest neighbour is looked for
_ISOLATED_RADII = 10.0  # distance to the nearest cell from which a cell is isolated
_MAX_COORDINATE_UM = 1e12  # beyond any tissue; squares of larger distances would overflow
_SAMPLE_SIZE = 10_000  # cells, enough for a median


class Scale(NamedTuple):
    """Micrometres per pixel, and the source of that number in words; NaN if the source does not give it."""

    microns_per_pixel: float
    source: str


@dataclass(frozen=True)
class UnitCheck:
    """The graph radius of a slide, and the spacing of its cells."""

    radius_um: float  # radius of the graph, micrometres
    radius_from: str  # source of the radius, in words
    spacing_um: float  # median distance to the nearest other cell, micrometres
    mean_degree: float  # mean number of other cells within the radius
    isolated: NDArray[np.int64]  # (n,) rows of cells that are far from all others

    def few_neighbours_note(self) -> str | None:
        """A warning if the mean degree is low; None otherwise."""
        if self.mean_degree >= _LOW_DEGREE:
            return None
        return f"only {self.mean_degree:.1f} neighbours per cell within {self.radius_um:g} um: check the units, or --radius-um"

    def isolated_note(self, barcodes: Sequence[str] | pd.Index[str]) -> str | None:
        """A warning if cells are far from all others, given the names of the N cells; None otherwise."""
        if not len(self.isolated):
            return None
        return (
            f"{len(self.isolated):,} cells, such as {barcodes[self.isolated[0]]!r}, lie more than "
            f"{_ISOLATED_RADII * self.radius_um:g} um from any other: they may be debris, or their coordinates damaged; "
            "they enlarge the extent of the split; --crop drops them"
        )


def to_micrometres(
    xy: NDArray[np.float64], microns_per_pixel: float | None, xy_name: str, scale: Scale | None = None
) -> tuple[NDArray[np.float64], str]:
    """Convert coordinates to micrometres, with the scale of the user, or else that of the download.

    Args:
        xy: (N, 2) coordinates as stored.
        microns_per_pixel: Scale that the user gave; None for the scale of the download.
        xy_name: Name of the stored coordinates, such as `obsm['spatial']`.
        scale: Scale of the download; None if the coordinates are micrometres.

    Returns:
        (N, 2) micrometres, and a description of the conversion.

    Raises:
        CifmError: The scale is not a finite number above zero.
    """
    if microns_per_pixel is not None:
        if not 0 < microns_per_pixel < np.inf:
            raise CifmError(f"--microns-per-pixel {microns_per_pixel:g}: not a scale", "give a number above zero")
        return xy * microns_per_pixel, f"{xy_name} x {microns_per_pixel:g} um, as asked"
    if scale is None:
        return xy, f"{xy_name}: micrometres"
    if not 0 < scale.microns_per_pixel < np.inf:
        raise CifmError(
            f"{scale.source}: {scale.microns_per_pixel:g} um per pixel is not a scale",
            "give it with --microns-per-pixel",
        )
    return xy * scale.microns_per_pixel, f"{xy_name} x {scale.microns_per_pixel:.6g} um: {scale.source}"


def require_agreement(first: Scale, second: Scale, tolerance: float, where: str) -> None:
    """Raise an error if two derivations of the scale contradict each other.

    Args:
        first: One derivation.
        second: Another derivation. NaN, in either, contradicts nothing.
        tolerance: Largest allowed relative difference.
        where: The download, for the message.

    Raises:
        CifmError: The difference is larger.
    """
    one, other = first.microns_per_pixel, second.microns_per_pixel
    # A comparison with NaN is false, so an unknown scale contradicts nothing.
    if abs(one - other) > tolerance * one:
        raise CifmError(
            f"{where}: two scales differ by more than {tolerance:.0%}: {one:.6g} um per pixel ({first.source}), "
            f"{other:.6g} um per pixel ({second.source})",
            "find out which is correct, and give it with --microns-per-pixel",
        )


def check_units(xy_um: NDArray[np.float64], platform_um: float | None, given_um: float | None) -> UnitCheck:
    """Choose the graph radius, and check that the coordinates can be micrometres.

    Args:
        xy_um: (N, 2) cell centres.
        platform_um: Radius of the paper for the platform; None if the paper gives none.
        given_um: Radius that the user gave; None if the user gave none.

    Returns:
        Radius, spacing and mean degree.

    Raises:
        CifmError: The spacing or the degree shows that the coordinates are not micrometres, or fewer than two cells are
            left.
    """
    # `not >` instead of `<=`, so that NaN is refused too.
    if given_um is not None and not given_um > 0:
        raise CifmError(f"--radius-um {given_um:g}: not a length", "give a radius above zero, in micrometres")
    if len(xy_um) < 2:
        raise CifmError(f"too few cells are left for a graph: {len(xy_um)}", "check the input and --crop")
    # Before the tree is built, which such distances would break.
    if (farthest := float(np.abs(xy_um).max())) > _MAX_COORDINATE_UM:
        raise CifmError(
            f"a coordinate of {farthest:.4g} um is outside any tissue", "check the coordinates of the input"
        )
    tree = cKDTree(xy_um)
    nearest = np.asarray(tree.query(xy_um, k=[2])[0])  # the first is the cell itself
    # The median, as a few isolated cells would dominate a mean.
    spacing = float(np.median(nearest))
    radius, source = _choose_radius(spacing, platform_um, given_um)
    # Counts ordered pairs, including each cell with itself.
    degree = float(tree.count_neighbors(tree, radius)) / len(xy_um) - 1.0
    check = UnitCheck(radius, source, spacing, degree, np.flatnonzero(nearest.ravel() > _ISOLATED_RADII * radius))
    numbers = (
        f"median distance to the nearest cell {spacing:.4g}, {degree:.4g} neighbours per cell within {radius:g} um"
    )
    # Millimetres would connect nearly all pairs of cells, and the graph would not fit into memory.
    if degree > MAX_DEGREE:
        raise CifmError(
            f"the coordinates are too dense for micrometres: {numbers}",
            "are they millimetres, or scaled down? convert them (--microns-per-pixel 1000 for millimetres), or give --radius-um",
        )
    # Pixels and nanometres would leave nearly all cells without neighbours. A radius that the user gave may be
    # smaller than the spacing.
    if degree < MIN_DEGREE or (given_um is None and spacing > radius):
        raise CifmError(
            f"the coordinates are too sparse for micrometres: {numbers}",
            "are they pixels or nanometres? convert them (--microns-per-pixel), or give --radius-um if cells are that far apart",
        )
    return check


def isolation_note(xy_um: NDArray[np.float64], radius_um: float) -> str | None:
    """Check that most cells have a neighbour within a radius.

    Args:
        xy_um: (N, 2) cell centres, micrometres.
        radius_um: Radius of the graph, micrometres.

    Returns:
        A warning that names a sufficient radius; None if most cells have a neighbour.
    """
    # Every k-th cell: cells are in Hilbert order, so these are spread evenly over the tissue.
    sample_um = xy_um[:: max(1, len(xy_um) // _SAMPLE_SIZE)]
    spacing = float(np.median(cKDTree(xy_um).query(sample_um, k=[2])[0]))
    if spacing <= radius_um:
        return None
    return (
        f"most cells have no neighbour within {radius_um:g} um, as the nearest is {spacing:.4g} um away (median): a model "
        f"cannot use their neighbourhood; train with --set data.radius_um={RADIUS_IN_SPACINGS * spacing:.4g}"
    )


def median_spacing_um(xy_um: NDArray[np.float64]) -> float | None:
    """Median distance to the nearest other cell.

    Args:
        xy_um: (N, 2) micrometres.

    Returns:
        Micrometres, of a few thousand cells if there are more; None for fewer than two cells.
    """
    if len(xy_um) < 2:
        return None
    some = xy_um[:: max(1, len(xy_um) // _SPACING_CELLS)]
    return float(np.median(cKDTree(xy_um).query(some, k=[2])[0]))


def _choose_radius(spacing: float, platform_um: float | None, given_um: float | None) -> tuple[float, str]:
    if given_um is not None:
        return float(given_um), "given"
    if platform_um is not None:
        return platform_um, "platform"
    # Checked only for a derived radius, which fits coordinates in any unit, so that the mean degree would look normal.
    low, high = PLAUSIBLE_SPACING_UM
    if not low <= spacing <= high:
        likely, scales = (
            ("millimetres, or many cells at one place", "1000 for millimetres")
            if spacing < low
            else ("pixels or nanometres", "0.001 for nanometres")
        )
        raise CifmError(
            f"median distance to the nearest cell {spacing:.4g}: no tissue has that spacing in micrometres",
            f"are the coordinates {likely}? convert them (--microns-per-pixel, {scales}), or give --radius-um",
        )
    # Rounded, as users repeat the radius from the report in options and recipes.
    return round(RADIUS_IN_SPACINGS * spacing, 1), f"{RADIUS_IN_SPACINGS:g} x median nearest-neighbour distance"


def describe_extent(xy_um: NDArray[np.float64]) -> dict[str, list[float]] | None:
    """Range of positions, as `--crop` and `--at` take them.

    Args:
        xy_um: (N, 2) positions, micrometres.

    Returns:
        Lowest and highest `x` and `y`, micrometres; None without positions.
    """
    if not len(xy_um):
        return None
    low, high = xy_um.min(axis=0), xy_um.max(axis=0)
    return {axis: [round(float(low[i]), 1), round(float(high[i]), 1)] for i, axis in enumerate("xy")}
