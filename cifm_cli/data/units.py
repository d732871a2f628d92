"""Micrometres: how coordinates become them, and whether spacing and degree of the cells say that they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# On a square grid 20 neighbours, on a hexagonal one 18, and no lattice distance falls on the border; the paper's
# own choice for 8 um bins is 20 um.
RADIUS_IN_SPACINGS = 2.5
PLAUSIBLE_SPACING_UM = (0.4, 400.0)  # subcellular bins ... spots of the first spatial arrays
FEWEST_NEIGHBOURS, MOST_NEIGHBOURS = 0.1, 200.0
_FEW = 3.0
_ALONE = 10.0  # radii
_FARTHEST = 1e12  # no instrument; squares of such distances overflow
_ASKED = 10_000  # cells, enough for a median


class Scale(NamedTuple):
    """Micrometres per pixel, and what says so; NaN where nothing does."""

    microns_per_pixel: float
    source: str


@dataclass(frozen=True)
class UnitCheck:
    """What the coordinates say of themselves.

    Args:
        radius_um: Radius of the graph.
        radius_from: Where the radius comes from, in words.
        spacing_um: Median distance to the nearest other cell.
        mean_degree: Mean number of cells within the radius.
        alone: Cells that are far from all others.
    """

    radius_um: float
    radius_from: str
    spacing_um: float
    mean_degree: float
    alone: NDArray[np.int64]

    def note(self) -> str | None:
        """A warning where the graph is thin; None otherwise."""
        if self.mean_degree >= _FEW:
            return None
        return f"only {self.mean_degree:.1f} neighbours per cell within {self.radius_um:g} um: check the units, or --radius-um"

    def alone_note(self, name: str) -> str:
        """A warning of cells that are far from all others, the first of them by name."""
        return (
            f"{len(self.alone):,} cells, such as {name!r}, lie more than {_ALONE * self.radius_um:g} um from any other: debris, "
            "or damaged coordinates? they stretch the regions of the split; --crop leaves them out"
        )


def to_micrometres(
    xy: NDArray[np.float64], microns_per_pixel: float | None, what: str, scale: Scale | None = None
) -> tuple[NDArray[np.float64], str]:
    """Scale coordinates as asked, or else as derived.

    Args:
        xy: (N, 2) as stored.
        microns_per_pixel: The user's scale, which goes before any other; None where there is none.
        what: Where they are stored.
        scale: The scale that the download tells; None where the coordinates are micrometres.

    Returns:
        (N, 2) micrometres and their derivation in words.

    Raises:
        CifmError: The scale is not above zero.
    """
    if microns_per_pixel is not None:
        if not 0 < microns_per_pixel < np.inf:
            raise CifmError(f"--microns-per-pixel {microns_per_pixel:g}: not a scale", "give a number above zero")
        return xy * microns_per_pixel, f"{what} x {microns_per_pixel:g} um, as asked"
    if scale is None:
        return xy, f"{what}: micrometres"
    if not 0 < scale.microns_per_pixel < np.inf:
        raise CifmError(
            f"{scale.source}: {scale.microns_per_pixel:g} um per pixel is not a scale",
            "give it with --microns-per-pixel",
        )
    return xy * scale.microns_per_pixel, f"{what} x {scale.microns_per_pixel:.6g} um: {scale.source}"


def agree(first: Scale, second: Scale, tolerance: float, where: str) -> None:
    """Refuse two derivations of the scale that contradict each other.

    Args:
        first: One derivation.
        second: Another; one that is NaN contradicts nothing.
        tolerance: Largest relative difference.
        where: The download, for the message.

    Raises:
        CifmError: They differ by more.
    """
    one, other = first.microns_per_pixel, second.microns_per_pixel
    if abs(one - other) > tolerance * one:
        raise CifmError(
            f"{where}: two scales disagree by more than {tolerance:.0%}: {one:.6g} um per pixel ({first.source}), "
            f"{other:.6g} um per pixel ({second.source})",
            "find out which is right, and give it with --microns-per-pixel",
        )


def check_units(xy_um: NDArray[np.float64], platform_um: float | None, asked_um: float | None) -> UnitCheck:
    """Choose the graph radius and refuse coordinates that cannot be micrometres.

    Args:
        xy_um: (N, 2) cell centres.
        platform_um: The paper's radius for the platform; None where it names none.
        asked_um: The user's radius.

    Returns:
        Spacing, radius and mean degree.

    Raises:
        CifmError: The spacing or the degree shows that the coordinates are not micrometres.
    """
    if asked_um is not None and not asked_um > 0:
        raise CifmError(f"--radius-um {asked_um:g}: not a length", "give a radius above zero, in micrometres")
    if len(xy_um) < 2:
        raise CifmError(
            f"{len(xy_um)} cell is left, which makes no graph", "look at the report of dropped cells, widen --crop"
        )
    if (farthest := float(np.abs(xy_um).max())) > _FARTHEST:
        raise CifmError(
            f"a coordinate of {farthest:.4g} um is none of a tissue", "look at the coordinates of the input"
        )
    tree = cKDTree(xy_um)
    nearest = np.asarray(tree.query(xy_um, k=[2])[0])  # the first is the cell itself
    spacing = float(np.median(nearest))
    radius, source = _radius(spacing, platform_um, asked_um)
    degree = float(tree.count_neighbors(tree, radius)) / len(xy_um) - 1.0
    check = UnitCheck(radius, source, spacing, degree, np.flatnonzero(nearest.ravel() > _ALONE * radius))
    numbers = (
        f"median distance to the nearest cell {spacing:.4g}, {degree:.4g} neighbours per cell within {radius:g} um"
    )
    if degree > MOST_NEIGHBOURS:
        raise CifmError(
            f"the coordinates are too dense for micrometres: {numbers}",
            "are they millimetres, or scaled down? convert them (--microns-per-pixel 1000 for millimetres), or give --radius-um",
        )
    if degree < FEWEST_NEIGHBOURS or (asked_um is None and spacing > radius):
        raise CifmError(
            f"the coordinates are too sparse for micrometres: {numbers}",
            "are they pixels or nanometres? convert them (--microns-per-pixel), or give --radius-um if cells are that far apart",
        )
    return check


def isolation_note(xy_um: NDArray[np.float64], radius_um: float) -> str | None:
    """A warning where most cells have no other within a radius that is not their own; None otherwise.

    Args:
        xy_um: (N, 2) cell centres.
        radius_um: Of the graph.

    Returns:
        What is wrong with it, and a radius that would do.
    """
    asked_um = xy_um[:: max(1, len(xy_um) // _ASKED)]
    spacing = float(np.median(cKDTree(xy_um).query(asked_um, k=[2])[0]))
    if spacing <= radius_um:
        return None
    return (
        f"most cells have no neighbour within {radius_um:g} um, as the nearest is {spacing:.4g} um away (median): a model "
        f"sees none of their surroundings; train with --set data.radius_um={RADIUS_IN_SPACINGS * spacing:.4g}"
    )


def _radius(spacing: float, platform_um: float | None, asked_um: float | None) -> tuple[float, str]:
    if asked_um is not None:
        return float(asked_um), "given"
    if platform_um is not None:
        return platform_um, "platform"
    low, high = PLAUSIBLE_SPACING_UM
    if not low <= spacing <= high:
        likely = "millimetres, or many cells at one place" if spacing < low else "pixels or nanometres"
        raise CifmError(
            f"median distance to the nearest cell {spacing:.4g}: no tissue has that spacing in micrometres",
            f"are the coordinates {likely}? convert them (--microns-per-pixel), or give --radius-um",
        )
    return round(RADIUS_IN_SPACINGS * spacing, 1), f"{RADIUS_IN_SPACINGS:g} x median nearest-neighbour distance"
