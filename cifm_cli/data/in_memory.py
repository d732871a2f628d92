"""Slides from AnnData objects in memory, without a file in between.

`slide_from_anndata` turns the caller's AnnData into a `Slide`; `prepare_to_anndata` (in `prepare.pipeline`) turns a
download into an AnnData.

Letters: N cells, G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.count_checks import bad_count, check_counts
from cifm_cli.data.counts_source import MemoryCounts, row_sums
from cifm_cli.data.metadata import SLIDE_FACTS, check_format, check_radius
from cifm_cli.data.prepare.gene_id_checks import gene_id_notes
from cifm_cli.data.prepare.gene_symbols import symbols_for
from cifm_cli.data.prepare.genes import plan_genes, species_note, unidentified_note
from cifm_cli.data.prepare.layout import require_one_section
from cifm_cli.data.prepare.order import hilbert_order
from cifm_cli.data.prepare.pitch import require_known_pitch
from cifm_cli.data.prepare.planes import require_flat
from cifm_cli.data.prepare.species import OtherSpeciesCounts, find_species, foreign_cells_warning, mixture_note
from cifm_cli.data.readers.anndata import choose_slot, find_gene_columns
from cifm_cli.data.readers.anndata_object import matrix_slots, read_slot, scale_spatial
from cifm_cli.data.readers.base import ReadConfig
from cifm_cli.data.slide import Slide, radius_notes
from cifm_cli.data.units import check_units
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.prepare.genes import GenePlan
    from cifm_cli.data.prepare.species import Species

_RAW = "raw/X"


class AnnDataSlide(NamedTuple):
    """A slide made from an AnnData object."""

    slide: Slide  # the slide, cells in Hilbert order
    rows: NDArray[np.int64]  # (N,) row of the AnnData for each cell of the slide; every row occurs once
    notes: tuple[str, ...]  # remarks for the user, such as which layer the counts were taken from

    def in_caller_order(self, values: NDArray[Any]) -> NDArray[Any]:
        """Reorder values of the slide's cells to the rows of the AnnData.

        Args:
            values: (N, ...) one entry per cell of the slide.

        Returns:
            (N, ...) one entry per row of the AnnData.
        """
        # By assignment, which inverts the permutation without sorting it.
        reordered = np.empty_like(values)
        reordered[self.rows] = values
        return reordered


def slide_from_anndata(
    adata: AnnData,
    *,
    name: str,
    radius_um: float | None = None,
    layer: str | None = None,
    microns_per_pixel: float | None = None,
) -> AnnDataSlide:
    """Make a slide from an AnnData object, which is not changed.

    All cells are kept, also cells without counts. A slide that `cifm prepare` wrote has its radius, split and total
    counts in the AnnData. Any other AnnData is checked as `cifm prepare` checks a file: genes are identified by Ensembl
    id or symbol, mitochondrial genes and control features are dropped, and all cells belong to the training region.

    Args:
        adata: N cells with raw counts and `obsm["spatial"]`, centres in micrometres.
        name: Name of the slide in messages and results.
        radius_um: Radius of the graph in micrometres; when None, that of the prepared slide, or one derived from the
            spacing of the cells.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; when None, the first that holds counts.
        microns_per_pixel: Scale of the coordinates, where they are pixels.

    Returns:
        The slide, the AnnData's row of each of its cells, and notes.

    Raises:
        CifmError: Counts, genes or coordinates are missing or not valid.
    """
    # A backed matrix is a handle on the file, which cannot be converted to CSR as an array can.
    adata = adata.to_memory() if adata.isbacked else adata
    metadata = _prepared_metadata(adata, name)
    prepared = metadata is not None
    xy_um, place_notes = _coordinates(adata, name, microns_per_pixel, prepared=prepared)
    genes, counts, notes = _gene_counts(adata, name, layer, prepared=prepared)
    notes += place_notes
    total = _total_counts(adata, counts, prepared=prepared)
    if metadata is None:
        units = check_units(xy_um, None, radius_um)
        remarks = species_note(genes.ids), unidentified_note(genes), units.few_neighbours_note(), _void_note(total)
        notes += filter(None, remarks)
        # Without a prepared slide there is no held-out region: all cells may be used for training.
        radius, split, facts = units.radius_um, np.zeros(adata.n_obs, dtype=np.int8), None
    else:
        radius, split = metadata[keys.RADIUS_UM], read_split(adata)
        facts = {key: str(metadata.get(key, "")) for key in SLIDE_FACTS}
    # Tiles and chunks are compact in space only if the cells are in Hilbert order.
    rows = hilbert_order(xy_um)
    slide = Slide(
        name,
        xy_um[rows],
        total[rows],
        split[rows],
        genes.ids,
        genes.symbols,
        radius,
        MemoryCounts(counts[rows]),
        facts=facts,
    )
    notes += radius_notes(slide, radius_um)
    return AnnDataSlide(slide.with_radius(radius_um), rows, tuple(notes))


def _total_counts(adata: AnnData, counts: csr_matrix, *, prepared: bool) -> NDArray[np.float64]:
    """(N,) counts over the panel."""
    # If the user selected genes of a prepared slide, the stored totals are still those over the whole panel.
    if prepared and keys.TOTAL_COUNTS in adata.obs:
        return np.asarray(adata.obs[keys.TOTAL_COUNTS], dtype=np.float64)
    return row_sums(counts)


def gene_columns(adata: AnnData, slide: Slide) -> NDArray[np.int64]:
    """Find the gene of a slide for each gene of the AnnData from which it was made.

    Args:
        adata: An AnnData with V genes in `var`.
        slide: The slide that `slide_from_anndata` made from it, G genes.

    Returns:
        (V,) columns of the slide; -1 for features that the slide does not contain, such as control features.
    """
    # The same plan as for the slide, so that both agree on the gene of every feature. Mitochondrial genes are
    # kept in the plan, and get -1 below if the slide has dropped them.
    features = find_gene_columns(adata.var)
    prepared = _prepared_metadata(adata, slide.name) is not None
    plan, _ = _plan_genes(features, prepared=prepared, keep_mitochondrial=True)
    columns = np.array([slide.columns.get(gene, -1) for gene in plan.ids], dtype=np.int64)
    # Dropped features have the column -1, which would select the last gene.
    return np.where(plan.column >= 0, columns[plan.column], -1)


def _prepared_metadata(adata: AnnData, name: str) -> dict[str, Any] | None:
    """`uns["cifm"]` of a prepared slide; None for any other AnnData."""
    metadata = adata.uns.get(keys.CIFM)
    if not isinstance(metadata, dict) or keys.FORMAT not in metadata:
        return None
    check_format(metadata, name)
    return {**metadata, keys.RADIUS_UM: check_radius(metadata, name)}


def _gene_counts(
    adata: AnnData, name: str, layer: str | None, *, prepared: bool
) -> tuple[GenePlan, csr_matrix, list[str]]:
    """The plan of the G genes, their (N, G) float32 counts in the caller's order, and notes."""
    slot, notes = choose_slot(
        matrix_slots(adata), layer, lambda slot: bad_count(read_slot(adata, slot).data) is None, name
    )
    counts, where = read_slot(adata, slot), f"{name}: {slot}"
    features = find_gene_columns(adata.raw.var if slot == _RAW else adata.var)
    names = features["symbol"].where(features["symbol"] != "", features["id"])
    # A normalised matrix would be normalised again by the model, and no later step could notice.
    check_counts(counts, adata.obs_names, names, where, "name the layer of the raw counts")
    # A prepared slide has mitochondrial genes only if the user chose `--keep mitochondrial`.
    genes, species = _plan_genes(features, prepared=prepared, keep_mitochondrial=prepared)
    if not prepared:
        notes += gene_id_notes(species.genes, where)
    foreign = OtherSpeciesCounts(species, adata.n_obs)
    foreign.add(0, counts)
    remarks = mixture_note(species), foreign_cells_warning(foreign.annotate(pd.DataFrame(index=adata.obs_names)))
    return genes, genes.apply(counts).astype(np.float32), [*notes, *filter(None, remarks)]


def _plan_genes(features: pd.DataFrame, *, prepared: bool, keep_mitochondrial: bool) -> tuple[GenePlan, Species]:
    """The gene of each feature; of a mixture of species, the genes of one are kept, as `cifm prepare` does."""
    # In a prepared slide this has been decided.
    species = find_species(features, keep_all=prepared)
    table = symbols_for(species.genes[~species.other], None)
    return plan_genes(species.marked(), table, keep_mitochondrial=keep_mitochondrial), species


def _coordinates(
    adata: AnnData, name: str, microns_per_pixel: float | None, *, prepared: bool
) -> tuple[NDArray[np.float64], list[str]]:
    """(N, 2) cell centres in micrometres, all finite, of one flat section; and notes."""
    # A prepared slide is in micrometres even if the images of its download are still in `uns`.
    config = ReadConfig(microns_per_pixel=1.0 if prepared and microns_per_pixel is None else microns_per_pixel)
    scaled = scale_spatial(adata, config, name)
    xy_um = scaled.xy_um
    bad = ~np.isfinite(xy_um).all(axis=1)
    if bad.any():
        cell = adata.obs_names[int(bad.argmax())]
        raise CifmError(f"{name}: cell {cell!r} has no finite coordinates", "leave out cells without a position")
    if prepared:
        return xy_um, []
    # The options of the command do not exist here, and so the hints name what the caller can do.
    require_one_section(
        xy_um, adata.obs, name, hint="use each section alone, such as adata[adata.obs[COLUMN] == VALUE], by {columns}"
    )
    notes = [require_flat(xy_um, scaled.z_um, name)] if scaled.z_um is not None else []
    if scaled.is_assumed:
        require_known_pitch(xy_um, name)
    return xy_um, [*scaled.notes, *filter(None, notes)]


def read_split(adata: AnnData) -> NDArray[np.int8]:
    """(N,) positions in `keys.REGIONS`; all training where the column is missing."""
    if keys.SPLIT not in adata.obs:
        return np.zeros(adata.n_obs, dtype=np.int8)
    regions = pd.Categorical(adata.obs[keys.SPLIT].astype(str), categories=list(keys.REGIONS))
    if (regions.codes < 0).any():
        unknown = adata.obs[keys.SPLIT].astype(str)[regions.codes < 0].iloc[0]
        raise CifmError(f"obs['split'] holds {unknown!r}", f"use only {', '.join(keys.REGIONS)}")
    return np.asarray(regions.codes, dtype=np.int8)


def _void_note(total_counts: NDArray[np.float64]) -> str | None:
    """A note about cells without counts; None if there are none."""
    void = int((total_counts == 0).sum())
    return f"{void:,} of {len(total_counts):,} cells have no counts; they do not affect other cells" if void else None
