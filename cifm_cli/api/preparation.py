"""`cifm.prepare`: from a download to an AnnData."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

from anndata import AnnData

from cifm_cli import keys
from cifm_cli.api.slides import optional_path, require_positive
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_sections_to_anndata
from cifm_cli.data.prepare.section_columns import parse_columns
from cifm_cli.data.prepare.splits import SplitConfig
from cifm_cli.data.readers.anndata_object import object_reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.simulation.window import Box

SplitKind: TypeAlias = Literal["regional", "strips", "blocks"]

logger = logging.getLogger(__name__)


# fmt: off
@overload
def prepare(
    path: str | Path | AnnData, *, by: None = None, name: str | None = None, platform: str | None = None, bin_um: int = 8,
    radius_um: float | None = None, microns_per_pixel: float | None = None, layer: str | None = None,
    condition: str = "", tissue: str = "", sample: str | None = None, gene_table: str | Path | None = None,
    orthologs: str | Path | None = None, cells: str | Path | None = None, keep: Sequence[str] = (),
    crop_um: Box | None = None, z_um: float | tuple[float, float] | None = None,
    split: SplitKind = "regional", split_gap_um: float | None = None, seed: int = 0,
) -> AnnData: ...


@overload
def prepare(
    path: str | Path | AnnData, *, by: str | Sequence[str], name: str | None = None, platform: str | None = None,
    bin_um: int = 8, radius_um: float | None = None, microns_per_pixel: float | None = None, layer: str | None = None,
    condition: str = "", tissue: str = "", sample: str | None = None, gene_table: str | Path | None = None,
    orthologs: str | Path | None = None, cells: str | Path | None = None, keep: Sequence[str] = (),
    crop_um: Box | None = None, z_um: float | tuple[float, float] | None = None,
    split: SplitKind = "regional", split_gap_um: float | None = None, seed: int = 0,
) -> dict[str, AnnData]: ...


def prepare(
    path: str | Path | AnnData, *, by: str | Sequence[str] | None = None, name: str | None = None, platform: str | None = None,
    bin_um: int = 8, radius_um: float | None = None, microns_per_pixel: float | None = None, layer: str | None = None,
    condition: str = "", tissue: str = "", sample: str | None = None, gene_table: str | Path | None = None,
    orthologs: str | Path | None = None, cells: str | Path | None = None, keep: Sequence[str] = (),
    crop_um: Box | None = None, z_um: float | tuple[float, float] | None = None,
    split: SplitKind = "regional", split_gap_um: float | None = None, seed: int = 0,
) -> AnnData | dict[str, AnnData]:
    """Read a download, filter its cells and genes, check its units, and split it into regions, as `cifm prepare` does.

    Args:
        path: Download folder, `.h5ad` with `obsm["spatial"]`, SpatialData `.zarr`, or matrix of counts (with `cells`); or an
            AnnData like such a file, which is not changed.
        by: Column or columns of `obs` that name the section of a cell, where the file holds several.
        name: Name of the slide; that of the download by default.
        platform: Reader to use; detected by default.
        bin_um: Bin size of a Visium HD download, micrometres.
        radius_um: Radius of the graph, micrometres; by default that of the platform, or one derived from the spacing.
        microns_per_pixel: Scale of the coordinates, if they are not micrometres.
        layer: Where an `.h5ad` has its raw counts: `X`, `raw`, or the name of a layer.
        condition: Free text, such as `tumour`.
        tissue: Free text, such as `pancreas`.
        sample: Sample of the slide; its name by default.
        gene_table: CSV of Ensembl ids and symbols that extends the packaged table.
        orthologs: CSV of Ensembl ids of another species and of human.
        cells: CSV of cells and their centres, if `path` is a matrix of counts.
        keep: What is not filtered or refused: `mitochondrial`, `outside-tissue`, `overlap`.
        crop_um: Only cells in this rectangle: x0, y0, x1, y1 in micrometres.
        z_um: Only cells at this depth, or in this range of depths, where positions have a third coordinate.
        split: `regional` as in the paper, `strips` of y, or random `blocks`.
        split_gap_um: Least distance between regions of strips and blocks, micrometres; 6 radii by default.
        seed: Seed of the random blocks.

    Returns:
        The prepared slide: raw counts, `obs["split"]`, `obsm["spatial"]` in micrometres, `uns["cifm"]`. With `by`, the
        slide of each section by its name.

    Raises:
        CifmError: The download is not recognised or damaged, holds several sections on top of each other, or has no counts
            or no coordinates in micrometres.

    Examples:
        >>> adata = cifm.prepare("downloads/xenium_pancreas", tissue="pancreas")
        >>> slides = cifm.prepare("two_sections.h5ad", by="library_id")
    """
    require_positive(radius_um=radius_um, microns_per_pixel=microns_per_pixel)
    columns = () if by is None else parse_columns(by) if isinstance(by, str) else tuple(by)
    config = PrepareConfig(
        name=name, platform=platform, bin_um=bin_um, condition=condition, tissue=tissue, sample=sample,
        radius_um=radius_um, microns_per_pixel=microns_per_pixel, layer=layer, gene_table=optional_path(gene_table),
        orthologs=optional_path(orthologs), cells=optional_path(cells), keep=tuple(keep), crop=crop_um, by=columns,
        z=z_um if z_um is None or isinstance(z_um, tuple) else (z_um, z_um),
        split=SplitConfig(split, split_gap_um, seed),
    )
    slides = _prepare(path, config)
    return slides if columns else next(iter(slides.values()))
# fmt: on


def _prepare(path: str | Path | AnnData, config: PrepareConfig) -> dict[str, AnnData]:
    """Prepare a download, and log the notes and warnings of its reports."""
    if isinstance(path, AnnData):
        slides = prepare_sections_to_anndata(Path(config.name or "adata"), config, object_reader(path))
    else:
        slides = prepare_sections_to_anndata(Path(path), config)
    for adata in slides.values():
        report = json.loads(adata.uns[keys.CIFM][keys.REPORT])
        for note in report["notes"]:
            logger.info(note)
        for warning in report["warnings"]:
            logger.warning(warning)
    return slides
