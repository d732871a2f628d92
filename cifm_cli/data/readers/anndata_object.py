"""AnnData objects in memory as downloads: slots of counts, positions and their unit, flags of cells.

Letters: N cells, F features.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.count_checks import bad_count
from cifm_cli.data.readers.anndata import choose_slot, find_gene_columns
from cifm_cli.data.readers.anndata_extras import read_extras
from cifm_cli.data.readers.base import Download, ReadConfig, Reader
from cifm_cli.data.readers.cell_flags import read_flags
from cifm_cli.data.readers.centre_columns import missing_centres_hint, read_places
from cifm_cli.data.readers.declared_scale import Scaled, read_libraries, scale_places
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from anndata import AnnData

_RAW = "raw/X"


def matrix_slots(adata: AnnData) -> list[str]:
    """Names of all matrices of an object, in the order in which counts are looked for."""
    slots = ["X"] if adata.X is not None else []
    return [*slots, *(f"layers/{layer}" for layer in adata.layers), *([_RAW] if adata.raw is not None else [])]


def read_slot(adata: AnnData, slot: str) -> csr_matrix:
    """A matrix of an object as CSR, columns sorted within rows; the object is not changed."""
    stored = adata.raw.X if slot == _RAW else adata.X if slot == "X" else adata.layers[slot.removeprefix("layers/")]
    matrix = csr_matrix(stored)
    # `csr_matrix` shares the arrays of its argument, and `sum_duplicates` sorts them in place.
    if not matrix.has_canonical_format:
        matrix = matrix.copy()  # the caller's arrays must stay as they are
        matrix.sum_duplicates()
    return matrix


def scale_spatial(adata: AnnData, config: ReadConfig, name: str) -> Scaled:
    """Take the positions of an object, and convert them to micrometres with the scale that it declares.

    Args:
        adata: N cells with `obsm["spatial"]`.
        config: Options; the user's scale takes precedence.
        name: Name of the object, for messages.

    Returns:
        Positions in micrometres; NaN for a cell that has none.

    Raises:
        CifmError: There are no positions, or they are pixels of unknown size.
    """
    if keys.SPATIAL not in adata.obsm:
        raise CifmError(f"{name}: no obsm['spatial']", missing_centres_hint(adata.obs.columns))
    places = read_places(adata.obsm[keys.SPATIAL], adata.n_obs, name)
    return scale_places(places, adata.obs, read_libraries(adata.uns.get("spatial")), config, Path(name))


def object_reader(adata: AnnData) -> Reader:
    """A reader whose download is an object in memory, of which nothing is changed.

    Args:
        adata: N cells x F features with raw counts and `obsm["spatial"]`.

    Returns:
        The reader; the path that it is given serves as the name of the object.
    """

    def read(path: Path, config: ReadConfig) -> Download:
        """Take the slots of the object."""
        if keys.FORMAT in adata.uns.get(keys.CIFM, {}):
            raise CifmError(f"{path}: a prepared slide already", "train, evaluate or embed with it")
        loaded = adata.to_memory() if adata.isbacked else adata
        slots = matrix_slots(loaded)
        slot, notes = choose_slot(
            slots, config.layer, lambda slot: bad_count(read_slot(loaded, slot).data) is None, str(path)
        )
        scaled, flags = scale_spatial(loaded, config, str(path)), read_flags(loaded.obs)
        content = {slot: getattr(loaded, slot) for slot in ("layers", "obsm", "obsp", "varm", "varp", "uns")}
        if loaded.raw is not None:
            content["raw"] = loaded.raw
        places = read_places(loaded.obsm[keys.SPATIAL], loaded.n_obs, str(path))
        extras = read_extras(content, lambda element: element, slot, places.xy, scaled.xy_um)
        return Download(
            platform="anndata",
            counts=read_slot(loaded, slot),
            obs=loaded.obs.set_axis(loaded.obs_names.astype(str)),
            genes=find_gene_columns(loaded.raw.var if slot == _RAW else loaded.var),
            xy_um=scaled.xy_um,
            units=scaled.units,
            matrix=slot,
            files=(),
            in_tissue=flags.in_tissue,
            notes=(*notes, *scaled.notes, *flags.notes, *extras.notes),
            counts_hint="name the layer of the raw counts",
            z_um=scaled.z_um,
            is_assumed_um=scaled.is_assumed,
            obsm=extras.obsm,
            uns=extras.uns,
        )

    return Reader("anndata", lambda _: False, read)
