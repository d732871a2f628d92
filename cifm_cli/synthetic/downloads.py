"""Synthetic downloads: a tissue with known truth, written in the layout of each platform."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack, vstack

from cifm_cli import keys
from cifm_cli.data.readers.base import GENE_EXPRESSION
from cifm_cli.provenance import numpy_generator
from cifm_cli.synthetic.expression import choose_genes, draw_counts
from cifm_cli.synthetic.files import write_csv_gz, write_matrix
from cifm_cli.synthetic.spots import write_bins, write_spots
from cifm_cli.synthetic.tissue import DOMAINS, EFFECTS, TYPES, Effect, Tissue, grow_tissue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CELL_TYPE = "cell_type"
# As the Xenium Prime panel has.
_PRIME_GENES = 5_000
# Mean counts of a control feature in a cell: most cells have no count of any control.
_CONTROL_RATE = 0.004
_V1_CONTROLS = {
    "Negative Control Probe": ("NegControlProbe_{:05d}", 20),
    "Unassigned Codeword": ("UnassignedCodeword_{:04d}", 8),
}
_PRIME_CONTROLS = {
    **_V1_CONTROLS,
    "Negative Control Codeword": ("NegControlCodeword_{:04d}", 12),
    "Genomic Control": ("Intergenic_Region_{:d}", 10),
    "Deprecated Codeword": ("DeprecatedCodeword_{:04d}", 4),
}
_CONTROL_COLUMNS = {
    "Negative Control Probe": "control_probe_counts",
    "Genomic Control": "genomic_control_counts",
    "Negative Control Codeword": "control_codeword_counts",
    "Unassigned Codeword": "unassigned_codeword_counts",
    "Deprecated Codeword": "deprecated_codeword_counts",
}


@dataclass(frozen=True)
class PlantedCells:
    """The truth about the cells of a synthetic tissue."""

    xy_um: NDArray[np.float64]  # (N, 2) cell centres, micrometres
    cell_type: NDArray[np.str_]  # N names of cell types
    domain: NDArray[np.str_]  # N names of domains
    void: NDArray[np.bool_]  # (N,) whether a cell has no counts
    gene_ids: tuple[str, ...]  # G Ensembl ids
    symbols: tuple[str, ...]  # G symbols
    effects: tuple[Effect, ...]  # effects of neighbours on genes


@dataclass(frozen=True)
class SyntheticTruth(PlantedCells):
    """The truth about the cells and their counts, cells in the order of the download."""

    barcodes: NDArray[np.str_]  # N barcodes
    counts: csr_matrix  # (N, G) counts of the genes, without controls


def write_download(
    folder: Path, platform: str, num_cells: int, seed: int, num_genes: int | None = None
) -> PlantedCells:
    """Write a synthetic tissue in the layout of a platform. With one seed, all layouts hold the same molecules.

    Args:
        folder: Folder to write; created if missing.
        platform: A key of `WRITERS`.
        num_cells: N.
        seed: Seed; the same seed gives the same bytes.
        num_genes: Number of genes; None for about 190, or 5,000 for `xenium_prime`.

    Returns:
        The truth.
    """
    return WRITERS[platform](folder, num_cells, seed, num_genes)


def write_xenium(folder: Path, num_cells: int, seed: int, num_genes: int | None = None) -> SyntheticTruth:
    """Write a download in the layout of Xenium V1.

    Args:
        folder: Folder to write; created if missing.
        num_cells: N.
        seed: Seed; the same seed gives the same bytes.
        num_genes: Number of genes; None for about 190.

    Returns:
        The truth.
    """
    tissue, genes = grow_tissue(num_cells, seed), choose_genes(num_genes)
    order = numpy_generator(seed, "order").permutation(num_cells)  # the cells of a download are not sorted in space
    planted = _describe(tissue, genes, order)
    counts = csr_matrix(vstack(list(draw_counts(tissue, genes, seed))))[order]
    truth = SyntheticTruth(**vars(planted), barcodes=_barcodes(num_cells, seed), counts=counts)
    _write_bundle(folder, planted, _in_blocks(counts), _V1_CONTROLS, seed)
    return truth


def write_xenium_prime(folder: Path, num_cells: int, seed: int, num_genes: int | None = None) -> PlantedCells:
    """Write a download in the layout of Xenium Prime, block by block, so that a million cells need little memory.

    Args:
        folder: Folder to write; created if missing.
        num_cells: N.
        seed: Seed; the same seed gives the same bytes.
        num_genes: Number of genes; None for 5,000.

    Returns:
        The truth, cells in the order of the download.
    """
    planted, blocks, _ = _plant(num_cells, seed, num_genes or _PRIME_GENES)
    _write_bundle(folder, planted, blocks, _PRIME_CONTROLS, seed)
    return planted


def write_visium(folder: Path, num_cells: int, seed: int, num_genes: int | None = None) -> PlantedCells:
    """Write a download in the layout of Visium, Space Ranger 2 or 3: spots of 55 um every 100 um.

    Args:
        folder: Folder to write; created if missing.
        num_cells: N, cells of the tissue; there is one spot per 87 cells, which covers a quarter of them.
        seed: Seed; the same seed gives the same bytes.
        num_genes: Number of genes; None for about 190.

    Returns:
        The truth about the cells.
    """
    planted, blocks, features = _plant(num_cells, seed, num_genes)
    write_spots(folder, planted.xy_um, blocks, features, seed)
    return planted


def write_visium_hd(folder: Path, num_cells: int, seed: int, num_genes: int | None = None) -> PlantedCells:
    """Write a download in the layout of Visium HD: bins of 8 um, about 1.6 per cell.

    Args:
        folder: Folder to write; created if missing.
        num_cells: N, cells of the tissue.
        seed: Seed; the same seed gives the same bytes.
        num_genes: Number of genes; None for about 190.

    Returns:
        The truth about the cells.
    """
    planted, blocks, features = _plant(num_cells, seed, num_genes)
    write_bins(folder, planted.xy_um, blocks, features, seed)
    return planted


WRITERS: dict[str, Callable[[Path, int, int, int | None], PlantedCells]] = {
    "visium": write_visium,
    "visium_hd": write_visium_hd,
    "xenium": write_xenium,
    "xenium_prime": write_xenium_prime,
}


def _plant(num_cells: int, seed: int, num_genes: int | None) -> tuple[PlantedCells, Iterator[csr_matrix], pd.DataFrame]:
    """Generate a tissue: the truth about its cells, their counts in blocks, and its genes as features."""
    tissue, genes = grow_tissue(num_cells, seed), choose_genes(num_genes)
    return _describe(tissue, genes), draw_counts(tissue, genes, seed), _gene_features(genes)


def _describe(tissue: Tissue, genes: pd.DataFrame, order: NDArray[np.int64] | slice = slice(None)) -> PlantedCells:
    return PlantedCells(
        # Rounded as the files store them, so that the truth equals what a reader returns.
        xy_um=np.round(tissue.xy_um[order], 4),
        cell_type=np.array(TYPES)[tissue.cell_type[order]],
        domain=np.array(list(DOMAINS))[tissue.domain[order]],
        void=tissue.void[order],
        gene_ids=tuple(genes["id"]),
        symbols=tuple(genes["symbol"]),
        effects=EFFECTS,
    )


def _gene_features(genes: pd.DataFrame) -> pd.DataFrame:
    return genes.assign(feature_type=GENE_EXPRESSION)


def _in_blocks(counts: csr_matrix, size: int = 4096) -> Iterator[csr_matrix]:
    return (counts[start : start + size] for start in range(0, counts.shape[0], size))


def _write_bundle(
    folder: Path, planted: PlantedCells, blocks: Iterable[csr_matrix], kinds: dict[str, tuple[str, int]], seed: int
) -> None:
    """Write the files of a Xenium bundle that readers use."""
    num_cells = len(planted.xy_um)
    genes = _gene_features(pd.DataFrame({"symbol": planted.symbols, "id": planted.gene_ids}))
    # Controls have no symbol of their own; instruments repeat the id.
    names = [(pattern.format(i), kind) for kind, (pattern, count) in kinds.items() for i in range(count)]
    controls = pd.DataFrame(names, columns=["id", "feature_type"]).assign(symbol=lambda table: table["id"])
    features = pd.concat([genes, controls], ignore_index=True)
    sums: list[dict[str, NDArray[np.int64]]] = []

    def with_controls() -> Iterator[csr_matrix]:
        """Yield the blocks with counts of the control features appended."""
        noise, start = numpy_generator(seed, "controls"), 0
        for block in blocks:
            rows = slice(start, start := start + block.shape[0])
            drawn = noise.poisson(_CONTROL_RATE, size=(block.shape[0], len(controls))) * ~planted.void[rows, None]
            # The sums are collected while the matrix is written, as the blocks can be iterated over only once.
            sums.append(_sums(block, drawn, controls["feature_type"]))
            yield csr_matrix(hstack([block, csr_matrix(drawn.astype(np.int32))]))

    folder.mkdir(parents=True, exist_ok=True)
    barcodes = _barcodes(num_cells, seed)
    write_matrix(folder / "cell_feature_matrix.h5", with_controls(), barcodes, features, "Xenium (synthetic)")
    cells = _cells_table(
        planted, barcodes, {name: np.concatenate([block_sums[name] for block_sums in sums]) for name in sums[0]}, seed
    )
    cells.to_parquet(folder / "cells.parquet", index=False, write_page_checksum=True)
    write_csv_gz(folder / "cells.csv.gz", cells)
    clusters = folder / "analysis/clustering/gene_expression_graphclust/clusters.csv"
    clusters.parent.mkdir(parents=True, exist_ok=True)
    labelled = ~planted.void  # the instrument's software does not cluster empty cells
    table = pd.DataFrame({"Barcode": barcodes[labelled], "Cluster": planted.cell_type[labelled]})
    table.to_csv(clusters, index=False)
    experiment = {
        "run_name": f"synthetic tissue, seed {seed}",
        "region_name": "synthetic",
        "panel_organism": "Human",
        # Micrometres per pixel of Xenium images.
        "pixel_size": 0.2125,
        "num_cells": num_cells,
        "analysis_sw_version": "synthetic",
    }
    (folder / "experiment.xenium").write_text(json.dumps(experiment, indent=2), encoding="utf8")


def _sums(genes: csr_matrix, controls: NDArray[np.int64], kinds: pd.Series[str]) -> dict[str, NDArray[np.int64]]:
    """Total counts of each cell by type of feature, as columns of `cells.parquet`."""
    transcripts = np.asarray(genes.sum(axis=1), dtype=np.int64).ravel()
    # A V1 download has no columns for the controls that only Prime panels contain.
    present = {kind: column for kind, column in _CONTROL_COLUMNS.items() if (kinds == kind).any()}
    by_kind = {column: controls[:, kinds == kind].sum(axis=1) for kind, column in present.items()}
    return {"transcript_counts": transcripts, **by_kind, keys.TOTAL_COUNTS: transcripts + controls.sum(axis=1)}


def _barcodes(num_cells: int, seed: int) -> NDArray[np.str_]:
    """Barcodes as the instrument writes them: ascending numbers in base 16 with the digits a to p, and `-1`."""
    numbers = np.sort(numpy_generator(seed, "barcodes").choice(16 * num_cells + 16, size=num_cells, replace=False))
    digits = np.array(list("abcdefghijklmnop"))[(numbers[:, None] >> np.arange(28, -1, -4)) & 15]
    return np.char.add(np.ascontiguousarray(digits).view("U8").ravel(), "-1")


def _cells_table(
    planted: PlantedCells, barcodes: NDArray[np.str_], sums: dict[str, NDArray[np.int64]], seed: int
) -> pd.DataFrame:
    """The columns of `cells.parquet`, and the true cell type."""
    # Cells of about 72 um2, which leave some space between them at 100 um2 per cell.
    area = numpy_generator(seed, "area").gamma(9.0, 8.0, size=len(barcodes))
    return pd.DataFrame(
        {
            "cell_id": barcodes,
            "x_centroid": planted.xy_um[:, 0],
            "y_centroid": planted.xy_um[:, 1],
            **sums,
            "cell_area": np.round(area, 3),
            "nucleus_area": np.round(0.4 * area, 3),
            CELL_TYPE: planted.cell_type,
        }
    )
