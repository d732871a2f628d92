"""Content of an AnnData beside counts, places and `obs`: what a prepared slide keeps, and what it leaves out.

Kept are dense matrices of `obsm`, colours of categories, and images with their scale factors. Letters: N cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import h5py
import numpy as np

from cifm_cli import keys
from cifm_cli.data.readers.declared_scale import image_scale, read_libraries
from cifm_cli.data.readers.tissue_images import convert_libraries

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MAX_COLUMNS: Final = 128  # of a matrix of `obsm` that is kept
_OWN: Final = {keys.MICROENVIRONMENT, keys.CELL}  # `cifm embed` writes them; a slide that has them counts as embedded
_COLOURS: Final = "_colors"  # ending of the name of a list of colours in `uns`
_MAX_NAMES: Final = 8  # of a slot that are listed
_SLOTS: Final = ("layers", "obsm", "obsp", "varm", "varp", "uns")
_DAMAGE: Final = (ValueError, TypeError, KeyError, AttributeError, OSError, RuntimeError)


class Extras(NamedTuple):
    """What is kept, and what is not."""

    obsm: dict[str, NDArray[Any]]  # (N, 1 to 128) numbers
    uns: dict[str, Any]  # `spatial` and colours
    notes: tuple[str, ...]


def read_extras(
    slots: Mapping[str, Any],
    read: Callable[[Any], Any],
    counts_slot: str,
    xy: NDArray[np.float64],
    xy_um: NDArray[np.float64],
) -> Extras:
    """Read what is kept of an AnnData.

    Args:
        slots: A file, or a dictionary, with the slots of an AnnData.
        read: Gives the value of an element of a slot.
        counts_slot: Where the counts are, such as `layers/counts`.
        xy: (N, 2) coordinates as stored.
        xy_um: (N, 2) micrometres.

    Returns:
        What is kept, and a note that names what is left out.
    """
    groups = {slot: group for slot in _SLOTS if isinstance(group := slots.get(slot), Mapping)}
    obsm = _small_matrices(groups.get("obsm", {}), read, len(xy))
    uns, notes = _read_uns(groups.get("uns", {}), read, xy, xy_um)
    kept = {counts_slot, f"obsm/{keys.SPATIAL}", f"uns/{keys.SPATIAL}", f"uns/{keys.CIFM}"}
    kept |= {f"obsm/{name}" for name in obsm} | {f"uns/{name}" for name in uns}
    left_out = []
    for slot, group in groups.items():
        names = [str(name) for name in group if f"{slot}/{name}" not in kept]
        if names:
            others = f" and {len(names) - _MAX_NAMES} others" if len(names) > _MAX_NAMES else ""
            left_out.append(f"{slot} {', '.join(names[:_MAX_NAMES])}{others}")
    # AnnData can store a missing `raw` as an empty array.
    if not isinstance(slots.get("raw"), h5py.Dataset | None) and counts_slot != "raw/X":
        left_out.append("raw")
    return Extras(obsm, uns, (*notes, *([f"left out: {'; '.join(left_out)}"] if left_out else [])))


def _small_matrices(group: Mapping[str, Any], read: Callable[[Any], Any], num_cells: int) -> dict[str, NDArray[Any]]:
    """Dense matrices with a row of numbers per cell, and few columns."""
    found = {}
    for name in group:
        if name == keys.SPATIAL or name in _OWN or "/" in name:
            continue
        try:
            # Before it is read, as it may be large.
            shape, kind = (
                tuple(getattr(group[name], "shape", ())),
                getattr(getattr(group[name], "dtype", None), "kind", ""),
            )
            if len(shape) != 2 or shape[0] != num_cells or not 0 < shape[1] <= MAX_COLUMNS or kind not in tuple("iuf"):
                continue
            values = np.asarray(read(group[name]))
        except _DAMAGE:
            continue  # it is listed among what is left out
        if values.shape == shape and values.dtype.kind == kind:
            found[name] = values.astype(values.dtype.newbyteorder("="), copy=False)
    return found


def _read_uns(
    group: Mapping[str, Any], read: Callable[[Any], Any], xy: NDArray[np.float64], xy_um: NDArray[np.float64]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Images with their scale factors, and colours."""
    uns: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    for name in group:
        if not str(name).endswith(_COLOURS):
            continue
        try:
            colours = np.asarray(read(group[name]))
        except _DAMAGE:
            continue
        if colours.ndim == 1 and all(isinstance(colour, str) for colour in colours):
            uns[str(name)] = colours.astype(object)
    libraries = read_libraries(group.get(keys.SPATIAL))
    if libraries:
        scale = image_scale(xy, xy_um, libraries)
        try:
            sections, notes = convert_libraries(group[keys.SPATIAL], scale) if scale else ({}, ())
        except _DAMAGE:
            sections, notes = {}, ()
        if sections:
            uns[keys.SPATIAL] = sections
        else:
            notes = (*notes, "uns['spatial'] is left out: its scale factors do not fit the coordinates")
    return uns, notes
