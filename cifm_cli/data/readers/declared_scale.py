"""The unit of the coordinates of an AnnData, from everything that the file says about it.

Coordinates of an AnnData have no declared unit. Programs that read 10x downloads store image pixels, others micrometres. The
unit follows from the names of the columns, from columns that hold the same coordinates in a named unit, from the array
positions of spots and bins, and from the scale factors in `uns["spatial"]`. If nothing is said, micrometres are assumed.

Letters: N cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from cifm_cli.data.readers.array_grid import array_scale, grouping_columns
from cifm_cli.data.readers.centre_columns import centre_pairs, find_depth
from cifm_cli.data.units import Scale, require_agreement, to_micrometres
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.readers.base import ReadConfig
    from cifm_cli.data.readers.centre_columns import Places

Libraries = dict[str, dict[str, float]]  # name of a library to its scale factors

_PER_PIXEL, _BIN, _SPOT = "microns_per_pixel", "bin_size_um", "spot_diameter_fullres"
_IMAGE_SCALES = ("tissue_hires_scalef", "tissue_lowres_scalef")
_SPOT_UM = 65.0  # see `visium.SPOT_UM`
_SAME = 0.02  # two scales that differ less are one
_TOLERANCES = {_PER_PIXEL: 0.02, _SPOT: 0.25}  # of scale factors against the array; the width of a spot is nominal
_BIN_TOLERANCE = 0.05
_VISIUM_UM = (80.0, 125.0)  # distance of spots, if the scale follows from their nominal width
_CELL_UM = (2.5, 40.0)  # distance of neighbouring cells
_SAMPLE_SIZE = 10_000
_PIXEL_HINT = "give their size with --microns-per-pixel (CosMx: 0.12028, its first public slides 0.18)"


class Scaled(NamedTuple):
    """Positions of N cells in micrometres."""

    xy_um: NDArray[np.float64]  # (N, 2)
    z_um: NDArray[np.float64] | None  # (N,) third coordinate; None if there is none
    units: str  # description of the conversion
    is_assumed: bool  # whether nothing says that the stored coordinates are micrometres
    notes: tuple[str, ...]  # the source of a scale other than 1


def scale_places(places: Places, obs: pd.DataFrame, libraries: Libraries, config: ReadConfig, path: Path) -> Scaled:
    """Convert stored coordinates to micrometres.

    Args:
        places: Coordinates as stored.
        obs: N rows indexed by barcode.
        libraries: Return value of `read_libraries`.
        config: Options; the user's scale takes precedence.
        path: The input.

    Returns:
        Coordinates in micrometres, and the source of the scale. The third one may be a column of obs.

    Raises:
        CifmError: The coordinates are pixels of unknown size, or two sources of the scale contradict each other.
    """
    scaled = _scale(places, obs, libraries, config, path)
    return scaled if scaled.z_um is not None else scaled._replace(z_um=_depths(obs))


def _scale(places: Places, obs: pd.DataFrame, libraries: Libraries, config: ReadConfig, path: Path) -> Scaled:
    if config.microns_per_pixel is not None:
        xy_um, units = to_micrometres(places.xy, config.microns_per_pixel, places.slot)
        z_um = None if places.z is None else places.z * config.microns_per_pixel
        return Scaled(xy_um, z_um, units, is_assumed=False, notes=())
    found = _find_scale(places, obs, libraries, config, path)
    if found is None:
        return Scaled(places.xy, places.z, f"{places.slot}: micrometres", is_assumed=True, notes=())
    scale, source = found
    if np.nanmax(np.abs(scale - 1.0)) <= _SAME:
        return Scaled(places.xy, places.z, f"{places.slot}: micrometres ({source})", is_assumed=False, notes=())
    low, high = np.nanmin(scale), np.nanmax(scale)
    size = f"{low:.6g}" if high - low <= _SAME * low else f"{low:.6g} to {high:.6g}"
    note = f"{places.slot} is not in micrometres: {source}; it was multiplied by {size}"
    z_um = None if places.z is None else places.z * scale
    return Scaled(
        places.xy * scale[:, None], z_um, f"{places.slot} x {size} um: {source}", is_assumed=False, notes=(note,)
    )


def _depths(obs: pd.DataFrame) -> NDArray[np.float64] | None:
    """(N,) third coordinate in a column of obs, micrometres; None if there is none."""
    name = find_depth(obs.columns)
    column = None if name is None else obs.iloc[:, [str(other) for other in obs.columns].index(name)]
    if column is None or pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        return None
    return column.to_numpy(np.float64, na_value=np.nan)


def read_libraries(stored: object) -> Libraries:
    """Read the scale factors in `uns["spatial"]`, a group of an HDF5 file or a dictionary.

    Args:
        stored: The value; anything but scale factors is ignored, such as images.

    Returns:
        The scale factors of each library that has some.
    """
    libraries: Libraries = {}
    if isinstance(stored, h5py.Group | Mapping):
        for name, library in stored.items():
            factors = library.get("scalefactors") if isinstance(library, h5py.Group | Mapping) else None
            if isinstance(factors, h5py.Group | Mapping):
                numbers = {str(key): _number(value) for key, value in factors.items()}
                libraries[str(name)] = {key: value for key, value in numbers.items() if 0 < value < np.inf}
    return libraries


def image_scale(xy: NDArray[np.float64], xy_um: NDArray[np.float64], libraries: Libraries) -> float | None:
    """Find the micrometres per pixel of the images of `uns["spatial"]`.

    Args:
        xy: (N, 2) coordinates as stored.
        xy_um: (N, 2) micrometres.
        libraries: Return value of `read_libraries`.

    Returns:
        The scale; None if images have different ones, or contradict the coordinates.
    """
    length = np.hypot(*xy.T)
    known = np.isfinite(xy_um).all(axis=1) & (length > 0)
    if not known.any():
        return None
    ratios = np.hypot(*xy_um[known].T) / length[known]
    scale, names = float(np.median(ratios)), [_per_pixel(factors) for factors in libraries.values()]
    if np.ptp(ratios) > _SAME * scale:
        return None
    if all(not size or abs(scale / size - 1) <= _TOLERANCES[name] for name, size in names):
        return scale
    # The coordinates are micrometres, and the scale factors those of pixels.
    declared = {factors.get(_PER_PIXEL, 0.0) for factors in libraries.values()}
    return declared.pop() or None if len(declared) == 1 else None


def _number(value: Any) -> float:  # noqa: ANN401 - a scalar of any kind, in a file or in memory
    stored = np.asarray(value[()] if isinstance(value, h5py.Dataset) else value)
    return float(stored.item()) if stored.size == 1 and stored.dtype.kind in "iuf" else float("nan")


def _find_scale(
    places: Places, obs: pd.DataFrame, libraries: Libraries, config: ReadConfig, path: Path
) -> tuple[NDArray[np.float64], str] | None:
    """Micrometres per stored unit, (N,) or (1,), and its source; None if nothing is said about the unit."""
    if places.unit_um:
        return np.array([places.unit_um]), f"{places.slot} are millimetres"
    by_columns = _scale_of_columns(places.xy, obs)
    bins = {factors[_BIN] for factors in libraries.values() if _BIN in factors}
    by_array = array_scale(
        places.xy,
        obs,
        bins.pop() if len(bins) == 1 else None,
        grouping_columns(obs, (*config.by, *_library_columns(obs, libraries))),
        path,
    )
    if by_array is not None:
        if by_columns is not None and by_columns.microns_per_pixel > 0:
            require_agreement(Scale(float(np.nanmedian(by_array.scale)), by_array.source), by_columns, _SAME, str(path))
        _check_libraries(by_array.scale, by_array.source, libraries, path)
        return by_array.scale, by_array.source
    if by_columns is not None and by_columns.microns_per_pixel > 0:
        return np.array([by_columns.microns_per_pixel]), by_columns.source
    if libraries and (found := _scale_of_libraries(places.xy, obs, libraries, path)):
        return found
    if by_columns is not None or places.unit_um == 0:
        what = places.slot if by_columns is None else f"obsm['spatial'] ({by_columns.source})"
        raise CifmError(f"{path}: {what} is in pixels", _PIXEL_HINT)
    return None


def _library_columns(obs: pd.DataFrame, libraries: Libraries) -> list[str]:
    """Columns of obs that hold the names of the libraries."""
    if len(libraries) < 2:
        return []
    return [str(labels.name) for labels in grouping_columns(obs) if set(labels.unique()) <= libraries.keys()]


def _scale_of_columns(xy: NDArray[np.float64], obs: pd.DataFrame) -> Scale | None:
    """The scale from columns of obs that hold the same coordinates; NaN if they are pixels of unknown size."""
    pairs = {pair: _numbers(obs, (pair.x, pair.y)) for pair in centre_pairs(obs.columns)}
    equal = next((pair for pair, values in pairs.items() if _are_equal(xy, values)), None)
    if equal is None:
        return None
    names = f"equal to {equal.x} and {equal.y} of obs"
    if equal.unit_um > 1.0 or (equal.unit_um and "um" in equal.x.lower()):
        return Scale(equal.unit_um, names)
    for other, values in pairs.items():
        ratio = _ratio(xy, values) if other.unit_um > 1.0 or "um" in other.x.lower() else None
        if ratio is not None:
            return Scale(ratio * other.unit_um, f"{names}, and {other.x}, {other.y} has their place in a known unit")
    return None if equal.unit_um else Scale(float("nan"), names)


def _numbers(obs: pd.DataFrame, names: tuple[str, str]) -> NDArray[np.float64]:
    columns = [str(name) for name in obs.columns]
    values = [pd.to_numeric(obs.iloc[:, columns.index(name)], errors="coerce") for name in names]
    return np.column_stack([column.to_numpy(np.float64, na_value=np.nan) for column in values])


def _are_equal(xy: NDArray[np.float64], values: NDArray[np.float64]) -> bool:
    both = np.isfinite(xy).all(axis=1) & np.isfinite(values).all(axis=1)
    # Stored with less precision in one of the two.
    return bool(both.mean() > 0.5) and np.allclose(xy[both], values[both], rtol=1e-5, atol=1e-3 * np.ptp(xy[both]))


def _ratio(xy: NDArray[np.float64], values: NDArray[np.float64]) -> float | None:
    """Length of the same distances in other columns, if these are a scaled copy of the coordinates."""
    both = np.isfinite(xy).all(axis=1) & np.isfinite(values).all(axis=1)
    if both.sum() < 3 or not (xy[both].std(axis=0) > 0).all():
        return None
    # An image has its y axis downwards, a stage upwards.
    correlation = [abs(np.corrcoef(xy[both, axis], values[both, axis])[0, 1]) for axis in range(2)]
    ratios = values[both].std(axis=0) / xy[both].std(axis=0)
    is_copy = min(correlation) > 0.999 and abs(ratios[0] / ratios[1] - 1) <= _SAME
    return float(ratios.mean()) if is_copy and ratios.mean() > 0 else None


def _check_libraries(scale: NDArray[np.float64], source: str, libraries: Libraries, path: Path) -> None:
    """Compare the scale of the array with the scale factors. Coordinates may also be micrometres or those of an image."""
    median = float(np.nanmedian(scale))
    if abs(median - 1.0) <= _SAME or len(libraries) != 1:
        return
    for factors in libraries.values():
        name, per_pixel = _per_pixel(factors)
        images = [per_pixel / factors[image] for image in _IMAGE_SCALES if image in factors]
        if per_pixel and not any(abs(median / other - 1) <= _TOLERANCES[name] for other in images):
            declared = Scale(per_pixel, f"{name} in uns['spatial']")
            require_agreement(Scale(median, source), declared, _TOLERANCES[name], str(path))


def _per_pixel(factors: dict[str, float]) -> tuple[str, float]:
    """Name of the scale factor that gives the size of a pixel, and that size; 0 if there is none."""
    if _PER_PIXEL in factors:
        return _PER_PIXEL, factors[_PER_PIXEL]
    return _SPOT, _SPOT_UM / factors[_SPOT] if _SPOT in factors else 0.0


def _scale_of_libraries(
    xy: NDArray[np.float64], obs: pd.DataFrame, libraries: Libraries, path: Path
) -> tuple[NDArray[np.float64], str] | None:
    """The scale from scale factors alone; whether they apply follows from the distance of neighbours."""
    sizes = {name: _per_pixel(factors)[1] for name, factors in libraries.items()}
    if not all(sizes.values()):
        return None
    first = next(iter(libraries))
    name, per_pixel = _per_pixel(libraries[first])
    source = f"{name} in uns['spatial']"
    if max(sizes.values()) > (1 + _SAME) * min(sizes.values()):
        # Images of several sections have pixels of different sizes.
        columns = _library_columns(obs, libraries)
        if not columns:
            raise CifmError(
                f"{path}: obsm['spatial'] is in image pixels of different sizes (the libraries of uns['spatial'])",
                "add a column library_id with these names to obs",
            )
        scale = np.array([sizes[label] for label in obs[columns[0]].astype(str)], dtype=np.float64)
        return scale, f"{source} of each {columns[0]}"
    spacing = _spacing(xy)
    is_pixels = _tell_unit(spacing, per_pixel, libraries[first])
    if is_pixels is None:
        raise CifmError(
            f"{path}: obsm['spatial'] is in image pixels (uns['spatial'] holds the scale factors of a 10x image), but its "
            f"nearest cells are {spacing:.4g} apart, {spacing * per_pixel:.4g} um by {name}",
            "prepare the 10x folder itself, or give --microns-per-pixel (1 for micrometres)",
        )
    source = source if is_pixels else f"their spacing and {source}"
    return np.full(1, per_pixel if is_pixels else 1.0), source


def _tell_unit(spacing: float, per_pixel: float, factors: dict[str, float]) -> bool | None:
    """Whether coordinates are pixels, False for micrometres; None if neither fits the distance of neighbours."""
    if _BIN in factors:
        low, high = factors[_BIN] * (1 - _BIN_TOLERANCE), factors[_BIN] * (1 + _BIN_TOLERANCE)
    else:
        low, high = _CELL_UM if _PER_PIXEL in factors else _VISIUM_UM
    # Scale factors are of pixels, so that pixels are preferred if both fit.
    if low <= spacing * per_pixel <= high:
        return True
    return False if low <= spacing <= high else None


def _spacing(xy: NDArray[np.float64]) -> float:
    """Median distance to the nearest cell, as stored."""
    known = xy[np.isfinite(xy).all(axis=1)]
    if len(known) < 2:
        return float("nan")
    sample = known[:: max(1, len(known) // _SAMPLE_SIZE)]
    return float(np.median(cKDTree(known).query(sample, k=[2])[0]))
