"""Images of a section and their scale factors, for plots: `uns["spatial"]` of scanpy, with coordinates in micrometres.

Programs that plot a section multiply `obsm["spatial"]` by a scale factor to get pixels of an image. In a prepared slide,
`obsm["spatial"]` is in micrometres, so the factors are converted: `tissue_hires_scalef` is in pixels of the image per
micrometre, and `spot_diameter_fullres` in micrometres.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import h5py
import numpy as np

from cifm_cli import keys
from cifm_cli.data.readers.spaceranger import read_scales
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.units import Scale

IMAGES: Final = ("hires", "lowres")
MAX_SIDE: Final = 2_000  # pixels; the longer side of `tissue_hires_image.png` of Visium
_MAX_PIXELS: Final = 100_000_000  # of an image that is read
_LENGTHS: Final = ("spot_diameter_fullres", "fiducial_diameter_fullres")  # pixels
_MICRONS_PER_PIXEL: Final = "microns_per_pixel"


class PlotContent(NamedTuple):
    """What plots of a section need."""

    uns: dict[str, Any]  # `spatial`, as in `Download.uns`; empty if there is nothing to plot with
    files: tuple[Path, ...]  # images that were read
    notes: tuple[str, ...]  # images that could not be


def read_plot_content(folder: Path, microns_per_pixel: float | None, scale: Scale | None) -> PlotContent:
    """Read the images and scale factors that Space Ranger writes beside its matrices.

    Args:
        folder: The folder that holds `spatial/`.
        microns_per_pixel: Scale that the user gave.
        scale: Scale of the download; not None without `microns_per_pixel`.

    Returns:
        Images (uint8) and scale factors. Nothing if not even the diameter of spots is known, without which no program plots.
    """
    try:
        factors, _ = read_scales(folder)
    except CifmError:
        return PlotContent({}, (), ())  # they are not needed if the user gave the scale
    images: dict[str, NDArray[np.uint8]] = {}
    files, notes = [], []
    for name in IMAGES:
        path = folder / "spatial" / f"tissue_{name}_image.png"
        if not factors.get(f"tissue_{name}_scalef", 0) > 0 or not path.is_file():
            continue
        try:
            images[name] = _read_image(path)
            files.append(path)
        except (OSError, ValueError, SyntaxError, OverflowError) as error:
            notes.append(f"{path.name} is left out: it cannot be read ({error})")
    um_per_pixel = microns_per_pixel or (scale.microns_per_pixel if scale else 1.0)
    section = _section(images, factors, um_per_pixel)
    return PlotContent({keys.SPATIAL: {"": section}} if section else {}, tuple(files), tuple(notes))


def convert_libraries(stored: object, um_per_pixel: float) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Convert `uns["spatial"]` of an AnnData for coordinates in micrometres.

    Args:
        stored: The value, a group of an HDF5 file or a dictionary.
        um_per_pixel: Micrometres per unit in which the coordinates are stored.

    Returns:
        The sections with a diameter of spots or with images, by name, and a note for each image that is left out.
    """
    libraries, notes = {}, []
    for name, library in stored.items() if isinstance(stored, h5py.Group | Mapping) else ():
        if not isinstance(library, h5py.Group | Mapping):
            continue
        factors = _numbers(library.get("scalefactors"))
        found: Any = library.get("images")
        images = {}
        for size in IMAGES if isinstance(found, h5py.Group | Mapping) else ():
            if size in found and f"tissue_{size}_scalef" in factors:
                image = _as_bytes(found[size])
                if image is None:
                    notes.append(f"uns['spatial']: image {size!r} of {name!r} is left out: not an image")
                else:
                    images[size] = image
        if (section := _section(images, factors, um_per_pixel)) is not None:
            libraries[str(name)] = section
    return libraries, tuple(notes)


def _section(
    images: Mapping[str, NDArray[np.uint8]], factors: Mapping[str, float], um_per_pixel: float
) -> dict[str, Any] | None:
    """The entry of a section: images, of which large ones are made smaller, and scale factors for micrometres."""
    converted = {name: float(factors[name]) * um_per_pixel for name in _LENGTHS if name in factors}
    if not converted.get("spot_diameter_fullres", 0) > 0:
        return None  # programs refuse to plot without it
    small = {}
    for name, image in images.items():
        step = math.ceil(max(image.shape[:2]) / MAX_SIDE)
        small[name] = image if step == 1 else _shrink(image, step)
        converted[f"tissue_{name}_scalef"] = float(factors[f"tissue_{name}_scalef"]) / um_per_pixel / step
    # One unit of `obsm["spatial"]` is one micrometre.
    return {"images": small, "scalefactors": {**converted, _MICRONS_PER_PIXEL: 1.0}}


def _read_image(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3) uint8."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            return np.asarray(image.convert("RGB"))


def _shrink(image: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Average squares of `step` pixels."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).reduce(step))


def _as_bytes(stored: Any) -> NDArray[np.uint8] | None:  # noqa: ANN401 - an array in a file or in memory, or anything
    """(height, width, 3) uint8 of an image with values up to 1 or up to 255; None for anything else."""
    shape: tuple[int, ...] = getattr(stored, "shape", ())
    if len(shape) != 3 or shape[2] not in (3, 4) or not 0 < shape[0] * shape[1] <= _MAX_PIXELS:
        return None
    values = np.asarray(stored[()])[..., :3]
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or not 0 <= values.min() <= values.max() <= 255:
        return None
    return np.round(values * (255 if values.dtype.kind == "f" and values.max() <= 1 else 1)).astype(np.uint8)


def _numbers(stored: object) -> dict[str, float]:
    """Positive numbers of a group or dictionary."""
    numbers = {}
    for name, value in stored.items() if isinstance(stored, h5py.Group | Mapping) else ():
        number = np.asarray(value[()] if isinstance(value, h5py.Dataset) else value)
        if number.size == 1 and number.dtype.kind in "iuf" and 0 < float(number.item()) < np.inf:
            numbers[str(name)] = float(number.item())
    return numbers
