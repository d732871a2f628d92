"""Synthetic prepared slides and untrained models for benchmarks: random counts at random positions, written in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.recipe import Recipe

GENES, PER_CELL, SPACING_UM, RADIUS_UM = 500, 50, 8.0, 20.0
CELLS_AT_ONCE = 100_000


def gene_ids(num_genes: int = GENES) -> tuple[str, ...]:
    """Made-up gene ids in the format of Ensembl ids."""
    return tuple(f"ENSG{number:011d}" for number in range(1, num_genes + 1))


def write_slide(
    target: Path, num_cells: int, num_genes: int = GENES, *, per_cell: int = PER_CELL, spacing_um: float = SPACING_UM
) -> None:
    """Write a prepared slide in blocks, as `cifm prepare` does.

    By default a cell expresses about 50 genes and has about 20 neighbours within 20 um.

    Args:
        target: The `.h5ad` file to write.
        num_cells: Number of cells.
        num_genes: Number of genes.
        per_cell: Mean number of expressed genes per cell.
        spacing_um: Side of the square grid of which each field contains one cell.
    """
    from cifm_cli import keys
    from cifm_cli.data.prepare.order import hilbert_order
    from cifm_cli.data.prepare.splits import regional_split
    from cifm_cli.data.writers.prepared import build_anndata, write_prepared
    from cifm_cli.data.writers.row_buffer import RowBuffer
    from cifm_cli.provenance import numpy_generator

    rng, side = numpy_generator(0, "bench"), int(np.ceil(num_cells**0.5))
    cells = np.arange(num_cells)  # a download lists the cells line by line, not in Hilbert order
    xy_um = np.stack([cells % side, cells // side], axis=1) * spacing_um + rng.random((num_cells, 2)) * spacing_um
    order = hilbert_order(xy_um)
    ids = gene_ids(num_genes)
    target.parent.mkdir(parents=True, exist_ok=True)
    with RowBuffer(target.parent, num_cells, ids) as buffer:
        for first in range(0, num_cells, CELLS_AT_ONCE):
            buffer.write(first, draw_counts(rng, min(CELLS_AT_ONCE, num_cells - first), num_genes, per_cell))
        obs = pd.DataFrame(index=[f"cell{number:08d}-1" for number in order])
        metadata: dict[str, Any] = {
            keys.FORMAT: keys.PREPARED_FORMAT,
            keys.PLATFORM: "xenium",
            keys.RADIUS_UM: RADIUS_UM,
            **dict.fromkeys((keys.TISSUE, keys.CONDITION, keys.SAMPLE), "bench"),
            **{key: {} for key in (keys.REPORT, keys.PROVENANCE)},
        }
        slide = build_anndata(buffer, order, xy_um[order], obs, regional_split(xy_um[order]), ids, ids)
        write_prepared(target, slide, metadata, buffer)


def draw_counts(rng: np.random.Generator, num_cells: int, num_genes: int, per_cell: int = PER_CELL) -> csr_matrix:
    """Draw a count matrix of shape (num_cells, num_genes) whose entries are non-zero independently of each other."""
    gaps = rng.geometric(per_cell / num_genes, size=int(num_cells * per_cell * 1.02) + 1000)
    places = np.cumsum(gaps) - 1
    places = places[places < num_cells * num_genes]
    indptr = np.searchsorted(places, np.arange(num_cells + 1) * num_genes)
    values = rng.geometric(0.7, size=len(places)).astype(np.float32)
    return csr_matrix((values, (places % num_genes).astype(np.int32), indptr), shape=(num_cells, num_genes))


def write_model(folder: Path, recipe: Recipe, num_genes: int = GENES) -> None:
    """Write an untrained model for the genes of `write_slide`.

    Args:
        folder: Folder of the run to create.
        recipe: The complete recipe.
        num_genes: Number of genes.
    """
    from cifm_cli.model.checkpoint import MODEL_FILE, save_checkpoint
    from cifm_cli.model.ensemble import Ensemble
    from cifm_cli.provenance import seeded_torch

    folder.mkdir(parents=True, exist_ok=True)
    with seeded_torch(0, "bench"):
        save_checkpoint(folder / MODEL_FILE, Ensemble(num_genes, recipe), recipe, gene_ids(num_genes), {})
