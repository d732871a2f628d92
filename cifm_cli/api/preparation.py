"""`cifm.prepare`: from a download to an AnnData."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cifm_cli import keys
from cifm_cli.api.slides import optional_path
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_to_anndata
from cifm_cli.data.prepare.splits import SplitConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from cifm_cli.simulation.window import Box

logger = logging.getLogger(__name__)


def prepare(
    path: str | Path,
    *,
    name: str | None = None,
    platform: str | None = None,
    bin_um: int = 8,
    radius_um: float | None = None,
    microns_per_pixel: float | None = None,
    layer: str | None = None,
    condition: str = "",
    tissue: str = "",
    sample: str | None = None,
    gene_table: str | Path | None = None,
    orthologs: str | Path | None = None,
    cells: str | Path | None = None,
    keep: Sequence[str] = (),
    crop_um: Box | None = None,
    split: Literal["regional", "strips", "blocks"] = "regional",
    split_gap_um: float | None = None,
    seed: int = 0,
) -> AnnData:
    """Read a download, filter its cells and genes, check its units, and split it into regions, as `cifm prepare` does.

    Args:
        path: Download folder, `.h5ad` with `obsm["spatial"]`, SpatialData `.zarr`, or matrix of counts (with `cells`).
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
        keep: What is not filtered: `mitochondrial`, `outside-tissue`.
        crop_um: Only cells in this rectangle: x0, y0, x1, y1 in micrometres.
        split: `regional` as in the paper, `strips` of y, or random `blocks`.
        split_gap_um: Least distance between regions of strips and blocks, micrometres; 6 radii by default.
        seed: Seed of the random blocks.

    Returns:
        The prepared slide: raw counts, `obs["split"]`, `obsm["spatial"]` in micrometres, `uns["cifm"]`.

    Raises:
        CifmError: The download is not recognised or damaged, or has no counts or no coordinates in micrometres.

    Example:
        >>> adata = cifm.prepare("downloads/xenium_pancreas", tissue="pancreas")
    """
    config = PrepareConfig(
        name=name, platform=platform, bin_um=bin_um, condition=condition, tissue=tissue, sample=sample,
        radius_um=radius_um, microns_per_pixel=microns_per_pixel, layer=layer, gene_table=optional_path(gene_table),
        orthologs=optional_path(orthologs), cells=optional_path(cells), keep=tuple(keep), crop=crop_um,
        split=SplitConfig(split, split_gap_um, seed),
    )  # fmt: skip
    return _prepare(Path(path), config)


def _prepare(path: Path, config: PrepareConfig) -> AnnData:
    """Prepare a download, and log the notes and warnings of its report."""
    adata = prepare_to_anndata(path, config)
    report = json.loads(adata.uns[keys.CIFM][keys.REPORT])
    for note in report["notes"]:
        logger.info(note)
    for warning in report["warnings"]:
        logger.warning(warning)
    return adata
